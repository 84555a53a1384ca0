"""Image files in memory."""

import io


def encode(image, kind="PNG", **options):
    """Returns the bytes of an image file; see `PIL.Image.Image.save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()

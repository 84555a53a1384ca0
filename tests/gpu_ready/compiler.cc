// Compiles the functions of a TensorFlow graph that XLA would compile, for a
// GPU that this machine does not have, with the compiler in TensorFlow's wheel.
//
//   compiler GRAPH FOLDER < jobs
//
// GRAPH is a serialized GraphDef with shapes. A job is a line of five words: a
// name, a function of the graph, h100, a100 or a file with a GpuTargetConfig,
// and 1 for deterministic kernels or 0. The optimized program is written to
// FOLDER/NAME.hlo. A line of standard output per job has the name and either
// "ok", processor seconds and bytes of temporary memory, or "failed" and why.
#include <ctime>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "google/protobuf/text_format.h"
#include "tensorflow/compiler/tf2xla/xla_compiler.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/graph.pb.h"
#include "xla/backends/gpu/target_config/target_config.h"
#include "xla/client/client_library.h"
#include "xla/client/compile_only_client.h"
#include "xla/debug_options_flags.h"
#include "xla/hlo/ir/hlo_module.h"
#include "xla/service/compiled_module.h"
#include "xla/service/compiler.h"
#include "xla/service/gpu/gpu_executable.pb.h"
#include "xla/service/gpu_topology.h"
#include "xla/stream_executor/platform_manager.h"

namespace {

using tensorflow::FunctionDef;
using tensorflow::XlaCompiler;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// Returns the arguments as XlaLaunch passes them, with variables as resources
// and the rest as parameters. The function's signature has types and shapes.
std::vector<XlaCompiler::Argument> Arguments(const FunctionDef& function) {
  std::vector<XlaCompiler::Argument> arguments;
  for (int i = 0; i < function.signature().input_arg_size(); ++i) {
    const auto& input = function.signature().input_arg(i);
    XlaCompiler::Argument argument;
    argument.name = input.name();
    if (input.type() == tensorflow::DT_RESOURCE) {
      argument.kind = XlaCompiler::Argument::kResource;
      argument.resource_kind = tensorflow::XlaResource::kVariable;
      argument.initialized = true;
      argument.type = input.handle_data(0).dtype();
      argument.shape = tensorflow::TensorShape(input.handle_data(0).shape());
    } else {
      argument.kind = XlaCompiler::Argument::kParameter;
      argument.type = input.type();
      const auto& attributes = function.arg_attr().at(i).attr();
      argument.shape = tensorflow::TensorShape(
          attributes.at("_output_shapes").list().shape(0));
    }
    arguments.push_back(argument);
  }
  return arguments;
}

absl::StatusOr<stream_executor::GpuTargetConfigProto> Target(
    const std::string& name) {
  if (name == "h100") {
    return xla::gpu::GetGpuTargetConfig(xla::gpu::GpuModel::H100_SXM);
  }
  if (name == "a100") {
    return xla::gpu::GetGpuTargetConfig(xla::gpu::GpuModel::A100_SXM_80);
  }
  stream_executor::GpuTargetConfigProto target;
  if (!google::protobuf::TextFormat::ParseFromString(ReadFile(name), &target)) {
    return absl::InvalidArgumentError("not a GpuTargetConfig: " + name);
  }
  return target;
}

// Returns the optimized program.
absl::StatusOr<std::unique_ptr<xla::CompiledModule>> Compile(
    const tensorflow::FunctionLibraryDefinition& library,
    const std::string& function, const std::string& target,
    bool deterministic) {
  const FunctionDef* definition = library.Find(function);
  if (definition == nullptr) return absl::NotFoundError(function);
  XlaCompiler::Options options;
  options.device_type = tensorflow::DeviceType("XLA_GPU_JIT");
  options.flib_def = &library;
  // The client only builds the program. It need not be for the target.
  TF_ASSIGN_OR_RETURN(
      auto* host,
      stream_executor::PlatformManager::PlatformWithName("Host"));
  TF_ASSIGN_OR_RETURN(
      options.client,
      xla::ClientLibrary::GetOrCreateCompileOnlyClient(host));
  XlaCompiler::CompileOptions compile_options;
  compile_options.alias_resource_update = true;
  tensorflow::NameAttrList name;
  name.set_name(function);
  XlaCompiler::CompilationResult lowered;
  XlaCompiler compiler(options);
  TF_RETURN_IF_ERROR(compiler.CompileFunction(
      compile_options, name, Arguments(*definition), &lowered));

  auto flags = xla::GetDebugOptionsFromFlags();
  flags.set_xla_gpu_deterministic_ops(deterministic);
  const auto& program = lowered.computation->proto();
  TF_ASSIGN_OR_RETURN(
      auto config, xla::HloModule::CreateModuleConfigFromProto(program, flags));
  TF_ASSIGN_OR_RETURN(auto module,
                      xla::HloModule::CreateFromProto(program, config));
  TF_ASSIGN_OR_RETURN(auto proto, Target(target));
  TF_ASSIGN_OR_RETURN(auto device,
                      xla::gpu::GpuTargetConfig::FromProto(proto));
  TF_ASSIGN_OR_RETURN(
      auto* cuda, stream_executor::PlatformManager::PlatformWithName("CUDA"));
  xla::AotCompilationOptions aot(cuda->id());
  aot.set_gpu_topology(xla::GetSingleDeviceGpuTopology("", device));
  *aot.mutable_debug_options() = flags;
  TF_ASSIGN_OR_RETURN(auto gpu, xla::Compiler::GetForPlatform(cuda->id()));
  TF_ASSIGN_OR_RETURN(auto results,
                      gpu->CompileAheadOfTime(std::move(module), aot));
  return std::move(results[0]);
}

// The first members of xla::gpu::GpuAotCompilationResult. Its header includes
// one that the wheel lacks, and no package reads its serialized format.
struct AotResult {
  void* functions;
  xla::gpu::GpuExecutableProto executable;
};

// Returns the bytes that are neither arguments, results nor constants.
int64_t TemporaryBytes(const xla::CompiledModule& compiled) {
  const auto& executable = reinterpret_cast<const AotResult&>(compiled).executable;
  const auto& buffers =
      executable.has_buffer_assignment()
          ? executable.buffer_assignment().buffer_allocations()
          : executable.buffer_allocations().values();
  int64_t bytes = 0;
  for (const auto& buffer : buffers) {
    if (!buffer.is_entry_computation_parameter() && !buffer.is_constant() &&
        !buffer.maybe_live_out() && !buffer.is_thread_local()) {
      bytes += buffer.size();
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  tensorflow::GraphDef graph;
  if (argc != 3 || !graph.ParseFromString(ReadFile(argv[1]))) return 2;
  tensorflow::FunctionLibraryDefinition library(
      tensorflow::OpRegistry::Global(), graph);
  tensorflow::XlaOpRegistry::RegisterCompilationKernels();
  std::string name, function, target;
  int deterministic;
  while (std::cin >> name >> function >> target >> deterministic) {
    const std::clock_t start = std::clock();
    auto compiled = Compile(library, function, target, deterministic);
    if (!compiled.ok()) {
      std::cout << name << " failed " << compiled.status() << std::endl;
      continue;
    }
    const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
    std::ofstream(std::string(argv[2]) + "/" + name + ".hlo")
        << (*compiled)->optimized_module()->ToString();
    std::cout << name << " ok " << seconds << " "
              << TemporaryBytes(**compiled) << std::endl;
  }
}

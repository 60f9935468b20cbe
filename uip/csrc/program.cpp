#include "program.h"

#include <c10/core/DeviceGuard.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/script.h>

#include "unpack.h"

namespace uip {
namespace {

class CompiledProgram final : public Program {
 public:
  // One runner, used by one thread; without the device index each rank would use the first GPU.
  CompiledProgram(const ProgramPlace &place, const at::Device &device)
      : device_(device),
        unpacked_(device.is_cpu() ? nullptr : place.kept),  // kernels of a GPU are read when they are first called
        loader_(UnpackedProgram::program(place.folder), "model", /*run_single_threaded=*/false, /*num_runners=*/1,
                device.index()) {}

  std::vector<at::Tensor> run(const std::vector<at::Tensor> &inputs) override {
    const c10::DeviceGuard guard(device_);
    return loader_.run(inputs);
  }

 private:
  at::Device device_;
  std::shared_ptr<UnpackedProgram> unpacked_;
  torch::inductor::AOTIModelPackageLoader loader_;
};

class ScriptProgram final : public Program {
 public:
  ScriptProgram(const Bytes &bytes, const at::Device &device)
      : device_(device), module_(torch::jit::load(bytes, device)) {
    module_.eval();
  }

  std::vector<at::Tensor> run(const std::vector<at::Tensor> &inputs) override {
    const c10::DeviceGuard guard(device_);
    // The optimising executor of torch 2.13 specialises on the sizes of the first calls, and its shape
    // propagation rejects this program once weights are constants; the plain executor runs it unchanged.
    const torch::jit::GraphOptimizerEnabledGuard as_written(false);
    const auto outputs = module_.forward({inputs.begin(), inputs.end()}).toTuple();
    std::vector<at::Tensor> tensors;
    for (const auto &output : outputs->elements()) tensors.push_back(output.toTensor());
    return tensors;
  }

 private:
  at::Device device_;
  torch::jit::Module module_;
};

}  // namespace

std::unique_ptr<Program> load_program(const Record &record, const ProgramPlace &place, const at::Device &device) {
  if (record.kind == Kind::compiled) return std::make_unique<CompiledProgram>(place, device);
  return std::make_unique<ScriptProgram>(place.bytes, device);
}

}  // namespace uip

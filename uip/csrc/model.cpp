#include "model.h"

#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/cuda.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "checked_file.h"
#include "flush_denormals.h"
#include "program.h"
#include "torch_errors.h"

namespace uip {
namespace {

std::string up_to_minor(const std::string &version) {
  const size_t first = version.find('.');
  return version.substr(0, version.find_first_of(".+", first + 1));
}

// The libtorch of this process, as major.minor; the headers give that of the build.
std::string running_torch() {
  const uint64_t version = aoti_torch_abi_version();
  return std::to_string(version >> 56) + "." + std::to_string(version >> 48 & 0xff);
}

void check_torch(const std::string &exported_with) {
  if (running_torch() != up_to_minor(TORCH_VERSION)) {
    throw std::runtime_error("libuip was built for torch " TORCH_VERSION ", but torch " + running_torch() +
                             " is loaded; run 'pip install .' again in this environment");
  }
  if (up_to_minor(exported_with) != running_torch()) {
    throw std::runtime_error("it was exported with torch " + exported_with +
                             ", this build runs torch " TORCH_VERSION "; run 'uip export' again in this environment");
  }
}

int capability_rank(const std::string &capability) {
  const std::vector<std::string> known = {"", "AVX2", "AVX512"};
  return static_cast<int>(std::find(known.begin(), known.end(), capability) - known.begin());
}

// Instructions that the processor lacks would end the process.
void check_processor(const std::string &needed) {
  const std::string present = at::get_cpu_capability();
  if (needed.empty() || needed == present) return;
  if (capability_rank(present == "DEFAULT" ? "" : present) < capability_rank(needed)) {
    throw std::runtime_error("it was compiled for processors with " + needed + ", this one has " + present +
                             "; run 'uip export' on this machine, or export TorchScript (-o model.pt)");
  }
}

class LoadedModel final : public Model {
 public:
  LoadedModel(const Record &record, const ProgramPlace &place, const at::Device &device)
      : device_(device), dtype_(record.metadata.dtype == "float64" ? at::kDouble : at::kFloat) {
    metadata_ = record.metadata;
    program_ = load_program(record, place, device);
  }

  Tensors run(const Tensors &inputs) override {
    return with_prefix("'" + metadata_.name + "' failed: ", [&] {
      // the gradient is part of the program: autograd need not record
      const c10::NoGradGuard no_history;
      const FlushDenormals flush;
      return named(program_->run(in_order(inputs)));
    });
  }

 private:
  std::vector<at::Tensor> in_order(const Tensors &inputs) const {
    std::vector<at::Tensor> ordered;
    for (const std::string &name : metadata_.inputs) {
      const auto found = inputs.find(name);
      if (found == inputs.end()) throw std::runtime_error("input `" + name + "` is missing");
      ordered.push_back(found->second.to(device_, type_of(found->second)).contiguous());
    }
    return ordered;
  }

  at::ScalarType type_of(const at::Tensor &input) const {
    if (input.is_floating_point()) return dtype_;
    return input.scalar_type() == at::kBool ? at::kBool : at::kLong;
  }

  Tensors named(const std::vector<at::Tensor> &outputs) const {
    if (outputs.size() != metadata_.outputs.size()) {
      throw std::runtime_error("the program must return " + std::to_string(metadata_.outputs.size()) +
                               " tensors, got " + std::to_string(outputs.size()));
    }
    Tensors result;
    for (size_t k = 0; k < outputs.size(); ++k) result[metadata_.outputs[k]] = outputs[k].detach().contiguous();
    return result;
  }

  at::Device device_;
  at::ScalarType dtype_;
  std::unique_ptr<Program> program_;
};

double tolerance(const std::string &precision) {
  return precision == "float64" ? 1e-10 : precision == "bfloat16" ? 5e-2 : 1e-4;
}

// The largest deviation from the recorded answers, in units of the tolerance.
double deviation(Model &model, const SelfTest &test) {
  const double allowed = tolerance(model.metadata().precision);
  const Tensors outputs = model.run(test.inputs);
  double worst = 0.0;
  for (const auto &[name, expected] : test.outputs) {
    const auto found = outputs.find(name);
    if (found == outputs.end() || found->second.sizes() != expected.sizes()) return INFINITY;
    if (expected.numel() == 0) continue;
    const at::Tensor want = expected.to(at::kDouble);
    const at::Tensor got = found->second.to(at::kCPU, at::kDouble);
    const double scale = std::max(1.0, want.abs().max().item<double>());
    const double error = (got - want).abs().max().item<double>() / scale / allowed;
    worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
  }
  return worst;
}

void check_answers(Model &model, const std::vector<SelfTest> &tests) {
  if (tests.empty()) throw std::runtime_error("it must carry a self-test, but has none; run 'uip export' again");
  for (const SelfTest &test : tests) {
    const double worst = deviation(model, test);
    if (worst <= 1.0) continue;
    throw std::runtime_error("it fails its self-test: the answers recorded at export are missed by " +
                             std::to_string(worst) +
                             " times the tolerance; run 'uip export' again on this machine, or copy the file again");
  }
}

}  // namespace

void check_fits(const Metadata &metadata) {
  check_torch(metadata.torch_version);
  check_processor(metadata.instructions);
}

at::Device find_device(const Metadata &metadata, int index) {
  if (metadata.device == "cpu") return at::Device(at::kCPU);
  const int count = static_cast<int>(torch::cuda::device_count());
  const int wanted = std::max(index, 0);
  if (wanted >= count) {
    throw std::runtime_error("it was exported for cuda and needs GPU " + std::to_string(wanted) + ", but torch sees " +
                             std::to_string(count) +
                             " GPUs; run 'uip export --device cpu', or install a CUDA build of torch");
  }
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(wanted));
}

std::unique_ptr<Model> start(const Record &record, const ProgramPlace &place, const at::Device &device) {
  auto model = std::make_unique<LoadedModel>(record, place, device);
  check_answers(*model, record.self_tests);
  return model;
}

std::unique_ptr<Model> Model::load(const std::string &path, const Trust &trust, int device_index) {
  return CheckedFile::read(path, trust).load(device_index);
}

}  // namespace uip

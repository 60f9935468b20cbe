// The reader of model files as seen from Python: `torch.classes.uip.Model`, used by uip/program.py.
#include <torch/custom_class.h>

#include "model.h"

namespace uip {
namespace {

using NamedTensors = c10::Dict<std::string, at::Tensor>;

class BoundModel final : public torch::CustomClassHolder {
 public:
  BoundModel(const std::string &path, int64_t device_index)
      : model_(Model::load(path, static_cast<int>(device_index))) {}

  NamedTensors run(const NamedTensors &inputs) {
    std::map<std::string, at::Tensor> named;
    for (const auto &entry : inputs) named[entry.key()] = entry.value();
    NamedTensors outputs;
    for (const auto &[name, tensor] : model_->run(named)) outputs.insert(name, tensor);
    return outputs;
  }

  std::string hash() { return model_->metadata().hash; }

 private:
  std::unique_ptr<Model> model_;
};

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.class_<BoundModel>("Model")
      .def(torch::init<const std::string &, int64_t>())
      .def("run", &BoundModel::run)
      .def("hash", &BoundModel::hash);
}

}  // namespace
}  // namespace uip

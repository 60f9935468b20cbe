// Python bindings beside the ops: the reader of model files, `torch.classes.uip.Model`, used by
// uip/program/reader.py; and `torch.ops.uip.soft_bonds`, which tests compare with uip/graph/nearest.py.
#include <ATen/Functions.h>
#include <torch/custom_class.h>

#include <span>
#include <tuple>
#include <vector>

#include "model.h"
#include "soft_nearest.h"

namespace uip {
namespace {

using NamedTensors = c10::Dict<std::string, at::Tensor>;

class BoundModel final : public torch::CustomClassHolder {
 public:
  /// `trusted`: a file of keys, or "". `own`: this process wrote the file itself.
  BoundModel(const std::string &path, int64_t device_index, const std::string &trusted, bool own)
      : model_(Model::load(path, own ? Trust::own_file() : Trust::given(trusted), static_cast<int>(device_index))) {}

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

at::Tensor integers(const std::vector<int64_t> &values, at::IntArrayRef shape) {
  return at::tensor(values, at::kLong).view(shape);
}

template <typename Number>
std::span<const Number> span_of(const at::Tensor &x) {
  return {x.const_data_ptr<Number>(), static_cast<size_t>(x.numel())};
}

/// `nearest_edges` (N, M) and `bond_index` (S) of contiguous arrays on the host, (E,) each.
std::tuple<at::Tensor, at::Tensor> soft_bonds(const at::Tensor &centre, const at::Tensor &reverse,
                                              const at::Tensor &distance, int64_t num_atoms, double k, int64_t nearest,
                                              double cutoff, double sigma, double tau) {
  const SoftNearest soft{k, nearest, cutoff, sigma, tau};
  const auto distances = span_of<double>(distance);
  const auto rows = nearest_edges(row_starts(span_of<int64_t>(centre), num_atoms), distances, soft);
  const auto ranks = soft_ranks(distances, rows, soft);
  std::vector<int64_t> bonds;
  for (size_t edge = 0; edge < distances.size(); ++edge) {
    const int64_t opposite = span_of<int64_t>(reverse)[edge];
    if (is_bond(ranks[edge], ranks[opposite], distances[edge], soft)) bonds.push_back(static_cast<int64_t>(edge));
  }
  return {integers(rows.items, {num_atoms, rows.width}), integers(bonds, {-1})};
}

TORCH_LIBRARY_FRAGMENT(uip, library) {
  library.class_<BoundModel>("Model")
      .def(torch::init<const std::string &, int64_t, const std::string &, bool>())
      .def("run", &BoundModel::run)
      .def("hash", &BoundModel::hash);
  library.def(
      "soft_bonds(Tensor centre, Tensor reverse, Tensor distance, int num_atoms, float k, int nearest, float cutoff, "
      "float sigma, float tau) -> (Tensor, Tensor)",
      &soft_bonds);
}

}  // namespace
}  // namespace uip

// Reads the model files that `uip export` writes: .pt2 (AOTInductor) and .pt (TorchScript), with the
// same inputs, outputs and metadata. Used by the LAMMPS and the OpenMM plugin, and independent of both.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "export.h"
#include "soft_nearest.h"
#include "trust.h"

namespace uip {

/// Metadata of a model file; written by uip/program/writer.py.
struct Metadata {
  int64_t schema_version = 0;
  std::string model;                 // architecture, for example "chgnet"
  std::string name;                  // for example "chgnet-0.3.0"
  std::string torch_version;         // that compiled the file
  std::string dtype;                 // of real tensors: "float32" or "float64"
  std::string precision;             // of matrix products: as `dtype`, or "bfloat16"
  std::string device;                // "cpu" or "cuda"
  double cutoff = 0.0;               // A
  double bond_cutoff = 0.0;          // A; 0 = the model has no bonds with angles
  std::optional<SoftNearest> soft;   // bonds are edges to soft nearest neighbours; none: edges below `bond_cutoff`
  std::vector<int64_t> elements;     // atomic numbers the model knows
  std::vector<std::string> inputs;   // names of schema.h, in call order
  std::vector<std::string> outputs;  // names of schema.h, in return order
  bool conservative = true;
  bool message_passing = true;  // energies of atoms depend on atoms beyond the cutoff
  bool parallel = true;         // false: correct on one rank only; engines refuse more
  std::string instructions;     // that the processor must support: "AVX2", "AVX512"; empty = none
  std::string licence;
  std::string provenance;
  std::string hash;  // sha256 of the file
};

/// A loaded program. Throws std::runtime_error with a message for users.
class UIP_EXPORT Model {
 public:
  /// Reads the file, checks checksum, signature, versions of schema and torch, processor and device, and runs the
  /// self-tests. `device_index`: the GPU for a cuda file, ignored for a cpu file.
  static std::unique_ptr<Model> load(const std::string &path, const Trust &trust, int device_index = -1);
  virtual ~Model() = default;

  const Metadata &metadata() const { return metadata_; }

  /// Inputs by schema name (a superset is fine) to outputs by schema name: contiguous and detached.
  virtual std::map<std::string, at::Tensor> run(const std::map<std::string, at::Tensor> &inputs) = 0;

 protected:
  Metadata metadata_;
};

/// "Si" -> 14. Throws std::runtime_error for an unknown symbol, with the closest one.
UIP_EXPORT int64_t atomic_number(const std::string &symbol);
/// 14 -> "Si".
UIP_EXPORT std::string element_symbol(int64_t atomic_number);
/// Standard atomic weight in g/mol; for warnings of masses that do not match their element.
UIP_EXPORT double standard_mass(int64_t atomic_number);

}  // namespace uip

// Content of a model file: a program, called with tensors in order, and a record of metadata and self-tests.
// Internal to libuip and its plugins; engines include model.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model.h"

namespace uip {

/// Compiled by AOTInductor (.pt2) or TorchScript (.pt).
enum class Kind { compiled, script };

using Tensors = std::map<std::string, at::Tensor>;

/// Inputs and reference outputs, recorded at export.
struct SelfTest {
  Tensors inputs;
  Tensors outputs;
};

/// The record "extra/uip" of a model file.
struct Record {
  Kind kind = Kind::compiled;
  Metadata metadata;
  std::vector<SelfTest> self_tests;
  std::string checksum;  // of the other entries
};

/// Reads the record without loading the program. Throws std::runtime_error if this is no model file, or one of
/// a newer schema.
UIP_EXPORT Record read_record(const std::string &path);

/// A program ready to be called, on one device.
class Program {
 public:
  virtual ~Program() = default;
  virtual std::vector<at::Tensor> run(const std::vector<at::Tensor> &inputs) = 0;
};

std::unique_ptr<Program> load_program(const std::string &path, const Record &record, const at::Device &device);

}  // namespace uip

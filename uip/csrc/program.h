// Content of a model file: a program, called with tensors in order, and a record of metadata and self-tests.
// Internal to libuip; engines include model.h, or checked_file.h.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "model_source.h"
#include "trust.h"
#include "unpack.h"

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

/// Reads the record without loading the program, after all checks of the content. Throws std::runtime_error if this is
/// no model file, one of a newer schema, or not signed by a key that `trust` asks for.
Record read_record(const Bytes &bytes, const Trust &trust);
/// The same record, as `UnpackedProgram` wrote it into its folder.
Record read_record_of_folder(const std::string &folder);

/// Where a program is: TorchScript in `bytes`, a compiled one in `folder`, which exists as long as `kept` or whoever
/// made it.
struct ProgramPlace {
  Bytes bytes;
  std::string folder;
  std::shared_ptr<UnpackedProgram> kept;
};

/// A program ready to be called, on one device.
class Program {
 public:
  virtual ~Program() = default;
  virtual std::vector<at::Tensor> run(const std::vector<at::Tensor> &inputs) = 0;
};

std::unique_ptr<Program> load_program(const Record &record, const ProgramPlace &place, const at::Device &device);

/// Throws std::runtime_error if the program was compiled for another torch or processor.
void check_fits(const Metadata &metadata);
/// Throws std::runtime_error if there is no such device.
at::Device find_device(const Metadata &metadata, int index);
/// The model, after its self-test. Throws std::runtime_error.
std::unique_ptr<Model> start(const Record &record, const ProgramPlace &place, const at::Device &device);

}  // namespace uip

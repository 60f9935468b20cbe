// What a model file may hold, checked before a byte of it is unpacked or run.
#pragma once

#include <caffe2/serialize/inline_container.h>

#include <string>

namespace uip {

/// Throws std::runtime_error for an entry that 'uip export' never writes: a name outside of its folder, a second entry
/// of the same name, a file of another kind, more or less than one library, flags for a compiler, or sizes that the
/// file cannot hold.
void check_entries(caffe2::serialize::PyTorchStreamReader &archive, bool compiled, size_t file_size);

/// Whether an entry is a file that the loader of compiled programs reads.
bool is_program_file(const std::string &name);

}  // namespace uip

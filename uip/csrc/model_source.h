// Where the bytes of a model file come from: a file, opened once, or the memory. What was checked is what is loaded.
#pragma once

#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace uip {

using Bytes = std::shared_ptr<caffe2::serialize::ReadAdapterInterface>;
using Archive = caffe2::serialize::PyTorchStreamReader;

/// Throws std::runtime_error if there is no such file.
Bytes bytes_of_file(const std::string &path);
Bytes bytes_in_memory(std::shared_ptr<const std::string> content);

/// 64 hexadecimal digits.
std::string sha256_of(const Bytes &bytes);

/// The archive in them; throws std::runtime_error for something else. `content`: of one entry.
std::unique_ptr<Archive> open_archive(const Bytes &bytes);
std::string content(Archive &archive, const std::string &name);
/// Calls `use` with one piece of an entry after the other, and returns its size: entries may be larger than a memory
/// that many processes share.
size_t for_pieces(Archive &archive, const std::string &name, const std::function<void(std::string_view)> &use);
std::runtime_error damaged();

}  // namespace uip

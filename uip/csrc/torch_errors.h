// Errors of libtorch as messages of one line.
#pragma once

#include <c10/util/Exception.h>

#include <stdexcept>
#include <string>

namespace uip {

/// The cause in a message of libtorch: TorchScript prints its trace before it, c10 prints one after it.
inline std::string cause_of(const std::string &message) {
  const std::string prefix = "RuntimeError: ";
  const size_t found = message.rfind(prefix);
  const size_t begin = found == std::string::npos ? 0 : found + prefix.size();
  return message.substr(begin, message.find('\n', begin) - begin);
}

/// Calls `function`; exceptions become a std::runtime_error of one line, prefixed by `where`.
template <typename Function>
auto with_prefix(const std::string &where, const Function &function) {
  try {
    return function();
  } catch (const c10::Error &error) {
    throw std::runtime_error(where + cause_of(error.what_without_backtrace()));
  } catch (const std::exception &error) {
    throw std::runtime_error(where + cause_of(error.what()));
  }
}

}  // namespace uip

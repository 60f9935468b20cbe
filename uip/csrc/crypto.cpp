#include "crypto.h"

#include <dlfcn.h>

#include <array>
#include <optional>
#include <stdexcept>

namespace uip {
namespace {

// The interface below is the same in all of them.
constexpr std::array file_names = {"libcrypto.so.3", "libcrypto.so.4", "libcrypto.so.1.1"};
constexpr int ed25519 = 1087;  // EVP_PKEY_ED25519
constexpr size_t digest_size = 32;

struct Key;      // EVP_PKEY
struct Context;  // EVP_MD_CTX
struct Digest;   // EVP_MD
struct Engine;   // ENGINE

struct Library {
  Context *(*new_context)();
  void (*free_context)(Context *);
  const Digest *(*sha256)();
  int (*begin)(Context *, const Digest *, Engine *);
  int (*update)(Context *, const void *, size_t);
  int (*finish)(Context *, unsigned char *, unsigned *);
  Key *(*new_key)(int, Engine *, const unsigned char *, size_t);
  void (*free_key)(Key *);
  int (*begin_check)(Context *, void *, const Digest *, Engine *, Key *);
  int (*check)(Context *, const unsigned char *, size_t, const unsigned char *, size_t);
};

template <typename Function>
bool find(void *handle, const char *name, Function *&function) {
  function = reinterpret_cast<Function *>(dlsym(handle, name));
  return function != nullptr;
}

std::optional<Library> open_library(const char *name) {
  void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return std::nullopt;
  Library lib{};
  const bool complete =
      find(handle, "EVP_MD_CTX_new", lib.new_context) && find(handle, "EVP_MD_CTX_free", lib.free_context) &&
      find(handle, "EVP_sha256", lib.sha256) && find(handle, "EVP_DigestInit_ex", lib.begin) &&
      find(handle, "EVP_DigestUpdate", lib.update) && find(handle, "EVP_DigestFinal_ex", lib.finish) &&
      find(handle, "EVP_PKEY_new_raw_public_key", lib.new_key) && find(handle, "EVP_PKEY_free", lib.free_key) &&
      find(handle, "EVP_DigestVerifyInit", lib.begin_check) && find(handle, "EVP_DigestVerify", lib.check);
  if (complete) return lib;  // stays open as long as the process
  dlclose(handle);
  return std::nullopt;
}

const Library *library() {
  static const std::optional<Library> found = [] {
    std::optional<Library> result;
    for (const char *name : file_names) {
      if (!result) result = open_library(name);
    }
    return result;
  }();
  return found ? &*found : nullptr;
}

const unsigned char *bytes_of(const std::string &text) { return reinterpret_cast<const unsigned char *>(text.data()); }

class LibrarySha256 final : public HashRoutine {
 public:
  explicit LibrarySha256(const Library &lib) : lib_(lib), context_(lib.new_context(), lib.free_context) {
    check(context_ != nullptr && lib_.begin(context_.get(), lib_.sha256(), nullptr) == 1);
  }

  void add(std::string_view bytes) override { check(lib_.update(context_.get(), bytes.data(), bytes.size()) == 1); }

  std::string digest() override {
    std::string result(digest_size, '\0');
    check(lib_.finish(context_.get(), reinterpret_cast<unsigned char *>(result.data()), nullptr) == 1);
    return result;
  }

 private:
  static void check(bool good) {
    if (!good) throw std::runtime_error("libcrypto cannot compute a SHA-256; check the settings of OpenSSL");
  }

  const Library &lib_;
  std::unique_ptr<Context, void (*)(Context *)> context_;
};

}  // namespace

std::unique_ptr<HashRoutine> library_sha256() {
  const Library *lib = library();
  return lib == nullptr ? nullptr : std::make_unique<LibrarySha256>(*lib);
}

bool is_signed(const std::string &public_key, const std::string &signature, const std::string &message) {
  const Library *lib = library();
  if (lib == nullptr) {
    throw std::runtime_error(
        "signatures need OpenSSL's libcrypto (libcrypto.so.3), but none is found; install OpenSSL, or put its folder "
        "into LD_LIBRARY_PATH");
  }
  const std::unique_ptr<Key, void (*)(Key *)> key(
      lib->new_key(ed25519, nullptr, bytes_of(public_key), public_key.size()), lib->free_key);
  const std::unique_ptr<Context, void (*)(Context *)> context(lib->new_context(), lib->free_context);
  if (!key || !context || lib->begin_check(context.get(), nullptr, nullptr, nullptr, key.get()) != 1) {
    throw std::runtime_error("libcrypto cannot check ed25519 signatures; check the settings of OpenSSL");
  }
  return lib->check(context.get(), bytes_of(signature), signature.size(), bytes_of(message), message.size()) == 1;
}

}  // namespace uip

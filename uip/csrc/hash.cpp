#include "hash.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "crypto.h"
#include "text_codes.h"

namespace uip {
namespace {

constexpr size_t block_size = 64;

// FIPS 180-4, section 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<uint32_t, 64> constants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

using State = std::array<uint32_t, 8>;

// Section 6.2.2: mixes one block into the state.
void mix(State &state, const char *block) {
  std::array<uint32_t, 64> w{};
  for (size_t t = 0; t < 16; ++t) {
    for (size_t byte = 0; byte < 4; ++byte) w[t] = w[t] << 8 | static_cast<unsigned char>(block[4 * t + byte]);
  }
  for (size_t t = 16; t < 64; ++t) {
    const uint32_t small0 = std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
    const uint32_t small1 = std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = w[t - 16] + small0 + w[t - 7] + small1;
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t t = 0; t < 64; ++t) {
    const uint32_t big1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const uint32_t first = h + big1 + ((e & f) ^ (~e & g)) + constants[t] + w[t];
    const uint32_t big0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const uint32_t second = big0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const State mixed = {a, b, c, d, e, f, g, h};
  for (size_t k = 0; k < state.size(); ++k) state[k] += mixed[k];
}

class PortableSha256 final : public HashRoutine {
 public:
  void add(std::string_view bytes) override {
    num_bytes_ += bytes.size();
    if (!rest_.empty()) {
      const size_t missing = std::min(block_size - rest_.size(), bytes.size());
      rest_.append(bytes.substr(0, missing));
      bytes.remove_prefix(missing);
      if (rest_.size() < block_size) return;
      mix(state_, rest_.data());
      rest_.clear();
    }
    for (; bytes.size() >= block_size; bytes.remove_prefix(block_size)) mix(state_, bytes.data());
    rest_ = bytes;
  }

  std::string digest() override {
    // section 5.1.1: a one bit, zeros, and the length in bits complete the last block
    const uint64_t num_bits = num_bytes_ * 8;
    std::string padding(1, '\x80');
    padding.resize(1 + (2 * block_size - 9 - rest_.size()) % block_size, '\0');
    for (int shift = 56; shift >= 0; shift -= 8) padding.push_back(static_cast<char>(num_bits >> shift));
    add(padding);
    std::string bytes;
    for (const uint32_t word : state_) {
      for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(word >> shift));
    }
    return bytes;
  }

 private:
  State state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::string rest_;  // shorter than a block
  uint64_t num_bytes_ = 0;
};

}  // namespace

Sha256::Sha256() : routine_(library_sha256()) {
  if (!routine_) routine_ = std::make_unique<PortableSha256>();
}

Sha256::~Sha256() = default;

void Sha256::add(std::string_view bytes) { routine_->add(bytes); }

std::string Sha256::digits() { return to_hexadecimal(routine_->digest()); }

}  // namespace uip

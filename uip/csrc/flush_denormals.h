// Numbers too small to be normal count as zero while this lives, in the thread that made it.
//
// Pre-activations of CHGNet reach several hundred: sigmoids underflow all the time, and processors handle what is left
// of them in microcode, a hundred times slower.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace uip {
namespace {

class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }  // results and operands
  ~FlushDenormals() { _mm_setcsr(before_); }
#else
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals &) = delete;
  FlushDenormals &operator=(const FlushDenormals &) = delete;

 private:
#if defined(__SSE__)
  unsigned before_;
#endif
};

}  // namespace
}  // namespace uip

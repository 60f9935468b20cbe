// Kernels of messages for processors with AVX512; flags are set in CMakeLists.txt.
#define UIP_VECTOR_BYTES 64
#define UIP_KERNELS kernels_avx512
#include "message_kernels.inc"

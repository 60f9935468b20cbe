// Kernels of rows of tokens for processors with AVX512; flags are set in CMakeLists.txt.
#define UIP_VECTOR_BYTES 64
#define UIP_KERNELS kernels_avx512
#include "row_kernels.inc"

// Kernels of rows of tokens for processors with AVX2; flags are set in CMakeLists.txt.
#define UIP_VECTOR_BYTES 32
#define UIP_KERNELS kernels_avx2
#include "row_kernels.inc"

// Kernels of rows of tokens for any processor; flags are set in CMakeLists.txt.
#define UIP_VECTOR_BYTES 16
#define UIP_KERNELS kernels_generic
#include "row_kernels.inc"

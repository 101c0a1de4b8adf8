// The passes over entries for AVX-512.
#define TOPKAST_ISA avx512
#define TOPKAST_NAME "avx512"
#include "entrywise_loops.h"

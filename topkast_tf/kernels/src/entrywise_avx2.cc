// The passes over entries for AVX2 with FMA.
#define TOPKAST_ISA avx2
#define TOPKAST_NAME "avx2"
#include "entrywise_loops.h"

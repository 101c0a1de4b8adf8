// Random cases for all kernels that the machine runs: fuzz COUNT.
#include "fuzz.h"

int main(int, char** argv) {
  std::mt19937 random(7);
  int checked = 0;
  for (const char* name : {"avx512", "avx2", "portable"}) {
    const topkast::Kernels* kernels = topkast::FindKernels(name);
    if (kernels == nullptr) continue;
    const topkast::Entrywise& passes = *topkast::FindEntrywise(name);
    for (int k = 0; k < std::atoi(argv[1]); ++k, ++checked) {
      CheckProducts(*kernels, random);
      CheckBfloat16(*kernels, random);
      CheckActivations(*kernels, random);
      CheckBlocks(*kernels, random);
      CheckConvolution(*kernels, random);
      CheckSelection(passes, random);
      CheckEntrywise(passes, random);
    }
  }
  std::printf("%d products agree\n", checked);
  return 0;
}

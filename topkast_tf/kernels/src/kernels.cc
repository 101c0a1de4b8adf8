#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace topkast {

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx512bf16 {
extern const PairKernels kPairKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
#endif
namespace portable {
extern const Kernels kKernels;
}

const Kernels* FindKernels(const char* name) {
  // A saved model names none; the variable is that of library.py.
  if (name == nullptr || *name == '\0') name = std::getenv("TOPKAST_CPU");
  const bool any = name == nullptr || *name == '\0';
#if defined(__x86_64__)
  if ((any || std::strcmp(name, "avx512") == 0) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return &avx512::kKernels;
  }
  if ((any || std::strcmp(name, "avx2") == 0) && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return &avx2::kKernels;
  }
#endif
  if (any || std::strcmp(name, "portable") == 0) return &portable::kKernels;
  return nullptr;
}

const PairKernels* FindPairKernels(const Kernels& kernels) {
#if defined(__x86_64__)
  if (&kernels == &avx512::kKernels && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512bf16")) {
    return &avx512bf16::kPairKernels;
  }
#endif
  return nullptr;
}

}  // namespace topkast

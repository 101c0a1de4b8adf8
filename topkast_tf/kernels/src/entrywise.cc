#include "entrywise.h"

#include <cstring>

#include "kernels.h"

namespace topkast {

#if defined(__x86_64__)
namespace avx512 {
extern const Entrywise kEntrywise;
}
namespace avx2 {
extern const Entrywise kEntrywise;
}
#endif
namespace portable {
extern const Entrywise kEntrywise;
}

const Entrywise* FindEntrywise(const char* name) {
  const Kernels* kernels = FindKernels(name);
  if (kernels == nullptr) return nullptr;
#if defined(__x86_64__)
  for (const Entrywise* each : {&avx512::kEntrywise, &avx2::kEntrywise}) {
    if (std::strcmp(each->name, kernels->name) == 0) return each;
  }
#endif
  return &portable::kEntrywise;
}

}  // namespace topkast

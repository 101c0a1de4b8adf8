#include "code_pages.h"

#include <sys/mman.h>

namespace topkast {

CodePages::CodePages(int64_t bytes) : bytes_(bytes) {
  void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);
  if (found != MAP_FAILED) data_ = static_cast<uint8_t*>(found);
}

CodePages::~CodePages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

bool CodePages::Seal() {
  return data_ != nullptr && mprotect(data_, bytes_, PROT_READ | PROT_EXEC) == 0;
}

bool CodePagesAllowed() {
  static const bool allowed = CodePages(4096).Seal();
  return allowed;
}

}  // namespace topkast

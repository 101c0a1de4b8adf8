// Memory for generated code: written first, then executable and read-only.
#ifndef TOPKAST_CODE_PAGES_H_
#define TOPKAST_CODE_PAGES_H_

#include <cstdint>

namespace topkast {

// Pages of the system, returned when the object goes. They are never writable and
// executable at once.
class CodePages {
 public:
  // Takes pages that can be written; `data()` is null if the system gives none.
  explicit CodePages(int64_t bytes);
  ~CodePages();
  CodePages(const CodePages&) = delete;
  CodePages& operator=(const CodePages&) = delete;

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  // Makes the pages executable and read-only; false if the system refuses.
  bool Seal();

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Whether the system lets a program run pages that it has written. Some do not, such as
// SELinux without `execmem`. Tried once.
bool CodePagesAllowed();

}  // namespace topkast

#endif  // TOPKAST_CODE_PAGES_H_

#include "mappings.h"

#include <sys/mman.h>

#include <mutex>
#include <unordered_map>

namespace topkast {
namespace {

// Where each begins -> its bytes.
struct Mappings {
  std::mutex mutex;
  std::unordered_map<const void*, int64_t> bytes;
};

Mappings& All() {
  static Mappings* mappings = new Mappings;
  return *mappings;
}

}  // namespace

void NoteMapping(const void* data, int64_t bytes) {
  std::lock_guard<std::mutex> lock(All().mutex);
  All().bytes[data] = bytes;
}

void ForgetMapping(const void* data) {
  std::lock_guard<std::mutex> lock(All().mutex);
  All().bytes.erase(data);
}

bool IsMapping(const void* data) {
  std::lock_guard<std::mutex> lock(All().mutex);
  return All().bytes.count(data) > 0;
}

void LeaveToFile(const void* data) {
  std::lock_guard<std::mutex> lock(All().mutex);
  const auto found = All().bytes.find(data);
  if (found == All().bytes.end()) return;
  // Of a shared mapping nothing is lost: pages that were written to stay the file's.
  madvise(const_cast<void*>(data), found->second, MADV_DONTNEED);
}

}  // namespace topkast

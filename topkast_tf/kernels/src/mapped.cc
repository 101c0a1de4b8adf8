#include "mapped.h"

#include <fcntl.h>
#include <stdlib.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <sys/mman.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/vfs.h>
#endif

#include <cerrno>
#include <cstring>
#include <utility>

#include "mappings.h"
#include "tensorflow/core/framework/allocation_description.pb.h"
#include "tensorflow/core/platform/errors.h"

namespace topkast {
namespace {

using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorBuffer;

class MappedBuffer : public TensorBuffer {
 public:
  MappedBuffer(void* data, size_t bytes) : TensorBuffer(data), bytes_(bytes) {
    NoteMapping(data, static_cast<int64_t>(bytes));
  }

  ~MappedBuffer() override {
    ForgetMapping(data());
    munmap(data(), bytes_);
  }

  size_t size() const override { return bytes_; }
  TensorBuffer* root_buffer() override { return this; }
  void FillAllocationDescription(
      tensorflow::AllocationDescription* description) const override {
    description->set_requested_bytes(static_cast<int64_t>(bytes_));
    description->set_allocator_name("topkast_mapped");
  }

 private:
  const size_t bytes_;
};

Status Failed(const std::string& what, const std::string& folder, int error) {
  return tensorflow::errors::ResourceExhausted("Expected ", what, " in ", folder,
                                               ". Received: ", std::strerror(error));
}

// Opens a new file without a name; -1 and errno if that fails.
int OpenUnnamed(const std::string& folder) {
#if defined(O_TMPFILE)
  const int opened = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (opened >= 0 || errno == ENOENT || errno == EACCES) return opened;
#endif
  std::string name = folder + "/topkast-XXXXXX";
  const int file = mkstemp(name.data());
  if (file >= 0) unlink(name.c_str());
  return file;
}

// Whether the files of a file system are in memory.
bool IsInMemory(int file) {
#if defined(__linux__)
  constexpr uint32_t kTmpfs = 0x01021994, kRamfs = 0x858458f6;
  struct statfs found;
  if (fstatfs(file, &found) != 0) return false;
  const auto type = static_cast<uint32_t>(found.f_type);
  return type == kTmpfs || type == kRamfs;
#else
  return false;
#endif
}

// Reserves the bytes of a file, so that a full disk is an error now and no signal later.
int Reserve(int file, int64_t bytes) {
#if defined(__APPLE__)
  return ftruncate(file, bytes) == 0 ? 0 : errno;
#else
  int error;
  do {
    error = posix_fallocate(file, 0, bytes);
  } while (error == EINTR);
  return error;
#endif
}

}  // namespace

Status MappedTensor(const std::string& folder, tensorflow::DataType type,
                    const tensorflow::TensorShape& shape, Tensor* tensor) {
  const int64_t bytes = shape.num_elements() * tensorflow::DataTypeSize(type);
  if (bytes == 0) {
    *tensor = Tensor(type, shape);
    return Status();
  }
  const int file = OpenUnnamed(folder);
  if (file < 0) return Failed("a folder for the file of a mapped weight", folder, errno);
  if (IsInMemory(file)) {
    close(file);
    return tensorflow::errors::InvalidArgument(
        "Expected a folder on a disk for mapped weights. Received: ", folder,
        ", whose files are in memory");
  }
  if (const int error = Reserve(file, bytes)) {
    close(file);
    return Failed(std::to_string(bytes) + " bytes for a mapped weight", folder, error);
  }
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int error = errno;
  close(file);
  if (data == MAP_FAILED) return Failed("a file of a mapped weight", folder, error);
  tensorflow::core::RefCountPtr<TensorBuffer> buffer(new MappedBuffer(data, bytes));
  *tensor = Tensor(type, shape, std::move(buffer));
  return Status();
}

void ReturnFreedMemory() {
#if defined(__GLIBC__)
  // The C library's own first threshold, which otherwise grows to 32 MiB with what is freed.
  constexpr int kThreshold = 128 << 10;
  static const bool is_set = mallopt(M_MMAP_THRESHOLD, kThreshold) == 1;
  static_cast<void>(is_set);
#endif
}

Status MakeMapped(const std::string& folder, tensorflow::Var* variable) {
  Tensor* held = variable->tensor();
  const bool is_own = variable->copy_on_read_mode.load() || held->RefCountIsOne();
  if (held->NumElements() == 0) return Status();
  if (is_own && IsMapping(held->data())) return Status();
  Tensor mapped;
  TF_RETURN_IF_ERROR(MappedTensor(folder, held->dtype(), held->shape(), &mapped));
  std::memcpy(mapped.data(), held->data(), held->TotalBytes());
  LeaveToFile(mapped.data());
  *held = std::move(mapped);
  return Status();
}

}  // namespace topkast

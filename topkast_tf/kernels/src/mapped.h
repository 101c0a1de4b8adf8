// Tensors in files that are mapped into memory.
#ifndef TOPKAST_MAPPED_H_
#define TOPKAST_MAPPED_H_

#include <string>

#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/status.h"

namespace topkast {

// Makes a tensor whose memory is a new file, which has no name: it is gone with the tensor,
// or with the process. Its place on the disk is reserved.
//
// Args:
//   folder: on a disk; one that is in memory is an error.
//   type: of entries that are plain bytes.
tensorflow::Status MappedTensor(const std::string& folder, tensorflow::DataType type,
                                const tensorflow::TensorShape& shape,
                                tensorflow::Tensor* tensor);

// Has the C library of this process return memory of 128 KiB and more to the system as it is
// freed. Otherwise a third of what training takes can be memory between other blocks, which
// was theta, or the entries of an earlier B. New memory then takes longer: it comes with a
// fault for each page.
void ReturnFreedMemory();

// Under its lock: gives a variable a mapped buffer of its own, unless it has one.
tensorflow::Status MakeMapped(const std::string& folder, tensorflow::Var* variable);

}  // namespace topkast

#endif  // TOPKAST_MAPPED_H_

// The operation that moves variables to mapped files.
#include <string>

#include "mapped.h"
#include "mappings.h"
#include "variables.h"

namespace topkast {
namespace {

// Variables that are in such files stay where they are.
class MapOp : public OpKernel {
 public:
  explicit MapOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("folder", &folder_));
  }

  void Compute(OpKernelContext* context) override {
    ReturnFreedMemory();
    for (int i = 0; i < context->num_inputs(); ++i) {
      VarPointer variable;
      OP_REQUIRES_OK(context,
                     tensorflow::LookupResource(
                         context, tensorflow::HandleFromInput(context, i), &variable));
      tensorflow::mutex_lock lock(*variable->mu());
      const Tensor& held = *variable->tensor();
      OP_REQUIRES(context,
                  held.IsInitialized() && tensorflow::DataTypeCanUseMemcpy(held.dtype()),
                  InvalidArgument("Expected variables of plain numbers, with values. "
                                  "Received: ",
                                  tensorflow::DataTypeString(held.dtype())));
      // Also with a buffer that something else has, as only `RefreshOp` writes in place.
      if (IsMapping(held.data())) {
        LeaveToFile(held.data());
        continue;
      }
      OP_REQUIRES_OK(context, MakeMapped(folder_, variable.get()));
    }
  }

 private:
  std::string folder_;
};

REGISTER_OP("TopkastMapVariables")
    .Input("variables: N * resource")
    .Attr("N: int >= 1")
    .Attr("folder: string")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return tensorflow::Status(); });

REGISTER_KERNEL_BUILDER(Name("TopkastMapVariables").Device(tensorflow::DEVICE_CPU), MapOp);

}  // namespace
}  // namespace topkast

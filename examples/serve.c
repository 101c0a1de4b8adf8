/* Serves a SavedModel of strip(model, kernels="native") without Python.

   served.export("served") wrote it, and `python -m topkast_tf.kernels` prints the path of
   the library of operations. `saved_model_cli show --dir served --tag_set serve
   --signature_def serving_default` prints the names of inputs and outputs.

   TF=$(python -c "import tensorflow as tf; print(tf.sysconfig.get_lib())")
   gcc -O2 serve.c -I$TF/include -L$TF -l:libtensorflow_cc.so.2 \
       -l:libtensorflow_framework.so.2 -Wl,-rpath,$TF -o serve
   ./serve kernels-....so served serving_default_x:0 StatefulPartitionedCall:0 8,64 < x > y

   x holds 8 x 64 numbers of float32, y gets those of the output. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

static void check(TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s\n", TF_Message(status));
  exit(1);
}

/* An output of an operation, as "serving_default_x:0". */
static TF_Output named(TF_Graph* graph, char* name) {
  char* colon = strrchr(name, ':');
  int index = colon ? atoi(colon + 1) : 0;
  if (colon) *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (output.oper == NULL || index < 0 ||
      index >= TF_OperationNumOutputs(output.oper)) {
    fprintf(stderr, "Expected an operation of the graph. Received: %s\n", name);
    exit(1);
  }
  return output;
}

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr, "Usage: %s LIBRARY MODEL INPUT OUTPUT SHAPE < x > y\n", argv[0]);
    return 2;
  }
  int64_t shape[8];
  int rank = 0;
  size_t count = 1;
  for (char* size = strtok(argv[5], ","); size; size = strtok(NULL, ",")) {
    if (rank == 8 || atoll(size) < 1) {
      fprintf(stderr, "Expected at most 8 positive sizes as SHAPE\n");
      return 2;
    }
    count *= shape[rank++] = atoll(size);
  }

  TF_Status* status = TF_NewStatus();
  TF_LoadLibrary(argv[1], status);
  check(status);
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[2], tags, 1,
                                                     graph, NULL, status);
  check(status);

  TF_Output input = named(graph, argv[3]), output = named(graph, argv[4]);
  TF_Tensor* x = TF_AllocateTensor(TF_FLOAT, shape, rank, 4 * count);
  if (fread(TF_TensorData(x), 4, count, stdin) != count) {
    fprintf(stderr, "Expected %zu numbers of float32 on standard input\n", count);
    return 1;
  }
  TF_Tensor* y = NULL;
  TF_SessionRun(session, NULL, &input, &x, 1, &output, &y, 1, NULL, 0, NULL, status);
  check(status);
  if (TF_TensorType(y) != TF_FLOAT) {
    fprintf(stderr, "Expected an output of float32. Received: type %d\n",
            TF_TensorType(y));
    return 1;
  }
  fwrite(TF_TensorData(y), 1, TF_TensorByteSize(y), stdout);

  TF_DeleteTensor(x);
  TF_DeleteTensor(y);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteGraph(graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return 0;
}

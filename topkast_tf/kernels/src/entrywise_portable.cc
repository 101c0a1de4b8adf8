// The passes over entries for any machine.
#define TOPKAST_ISA portable
#define TOPKAST_NAME "portable"
#include "entrywise_loops.h"

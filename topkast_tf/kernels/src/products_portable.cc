// The products for any machine.
#define TOPKAST_ISA portable
#define TOPKAST_NAME "portable"
#include "products.h"

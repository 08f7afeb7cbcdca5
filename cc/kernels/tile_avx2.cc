#define LOWPREC_ISA avx2
#include "cc/kernels/tile_loops.h"

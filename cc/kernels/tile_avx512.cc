#define LOWPREC_ISA avx512
#include "cc/kernels/tile_loops.h"

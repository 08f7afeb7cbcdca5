#include "cc/kernels/tile_loops.h"

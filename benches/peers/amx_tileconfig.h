/* Compile llama.cpp with `-include` of this file where GCC 12 meets a CPU with AMX.
 *
 * That GCC's _tile_loadconfig tells the optimiser that the instruction reads 8 bytes; it reads 64. The stores to the
 * other 56 are removed as dead, the CPU is given stack rubbish for a tile configuration, and the first product of more
 * than one row dies of a general protection fault (ggml-org/llama.cpp issue 20824 and pull request 26954). Here the
 * operand has its true size; nothing else changes.
 */
#ifdef __AMX_TILE__
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)))
#endif

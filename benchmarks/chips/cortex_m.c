/* Runs a network on QEMU's mps2-an385 and prints class, timer ticks and scores of each image. QEMU, told `-icount
   shift=0`, takes 1 ns for an instruction, and the board's timer ticks every 40 ns: a tick is 40 instructions. */

#include <stdint.h>
#include <stdio.h>

#include "net.h"
#define IN_FLASH
#include "images.h"

#define TIMER ((volatile uint32_t *)0x40000000) /* control, value, reload */

extern void _start(void);
__attribute__((section(".vectors"), used)) static void *const vectors[] = {(void *)0x20400000, (void *)_start};

int main(void)
{
    int32_t scores[NET_OUTPUTS];
    TIMER[2] = 0xffffffffu;
    TIMER[1] = 0xffffffffu;
    TIMER[0] = 1;
    for (unsigned n = 0; n < COUNT; n++) {
        for (unsigned i = 0; i < NET_INPUTS; i++) {
            net_input[i] = images[n][i];
        }
        const uint32_t before = TIMER[1];
        const unsigned best = net_run(scores);
        printf("%u %lu", best, (unsigned long)(before - TIMER[1]));
        for (unsigned i = 0; i < NET_OUTPUTS; i++) {
            printf(" %ld", (long)scores[i]);
        }
        printf("\n");
    }
    return 0;
}

/* Reads images from stdin, writes scores to stdout, and the microseconds of each image to stderr. */

#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>

#include "net.h"

static double microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

int main(void)
{
    net_score scores[NET_OUTPUTS];
    while (fread(net_input, sizeof net_input[0], NET_INPUTS, stdin) == NET_INPUTS) {
        const double before = microseconds();
        net_run(scores);
        fprintf(stderr, "%.3f\n", microseconds() - before);
        fwrite(scores, sizeof scores[0], NET_OUTPUTS, stdout);
    }
    return 0;
}

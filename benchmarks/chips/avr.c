/* Runs a network on an ATmega in simavr and prints class, cycles and scores of each image on the serial port. */

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>

#include "net.h"
#define IN_FLASH PROGMEM
#include "images.h"

static volatile uint16_t overflows;

ISR(TIMER1_OVF_vect)
{
    overflows++;
}

static void put(char c)
{
    while (!(UCSR0A & _BV(UDRE0))) {
    }
    UDR0 = (uint8_t)c;
}

static void put_number(int32_t x)
{
    char digits[11];
    uint8_t n = 0;
    uint32_t left = x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
    if (x < 0) {
        put('-');
    }
    do {
        digits[n++] = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    while (n) {
        put(digits[--n]);
    }
    put(' ');
}

int main(void)
{
    static int32_t scores[NET_OUTPUTS];
    UCSR0B = _BV(TXEN0);
    UBRR0 = 0;
    TIMSK1 = _BV(TOIE1);
    sei();
    for (uint8_t n = 0; n < COUNT; n++) {
        for (uint16_t i = 0; i < NET_INPUTS; i++) {
            net_input[i] = pgm_read_byte(&images[n][i]);
        }
        overflows = 0;
        TCNT1 = 0;
        TCCR1B = _BV(CS10);
        const unsigned best = net_run(scores);
        const uint16_t ticks = TCNT1;
        TCCR1B = 0;
        put_number((int32_t)best);
        put_number((int32_t)(((uint32_t)overflows << 16) + ticks));
        for (uint8_t i = 0; i < NET_OUTPUTS; i++) {
            put_number(scores[i]);
        }
        put('\n');
    }
    cli();
    sleep_enable();
    sleep_cpu();
    return 0;
}

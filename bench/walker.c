/* Legacy mode by shifts and masks (spec 3.4.2, 3.7): what bench/batch.py compares the batch engine with.
   One request at a time, no caches; the unit has 48 bits of guest and host addresses. */
#include <stddef.h>
#include <stdint.h>

#define ADDRESS 0xfffffffff000ull
#define BEYOND 0xf000000000000ull /* bits 51:48 */
#define SNOOP_OR_TRANSIENT (1ull << 11 | 1ull << 62)

/* The fault reason, or 0 with the host address. `size`: of the memory, in quadwords. */
static unsigned walk(const uint64_t *words, uint64_t size, uint64_t root, uint16_t source, uint64_t address,
                     int write, uint64_t *host)
{
    uint64_t at = (root >> 3) + 2 * (source >> 8), low, high, table, entry, reserved;
    uint64_t rights = 3, needed = write ? 2 : 1;
    unsigned missing = write ? 0x05 : 0x06;
    int levels, shift;

    if (at + 1 >= size)
        return 0x08;
    low = words[at], high = words[at + 1];
    if (!(low & 1))
        return 0x01;
    if ((low & (BEYOND | 0xfff0000000000ffeull)) || high)
        return 0x0a;
    at = ((low & ADDRESS) >> 3) + 2 * (source & 0xff);
    if (at + 1 >= size)
        return 0x09;
    low = words[at], high = words[at + 1];
    if (!(low & 1))
        return 0x02;
    if ((low & 0xff0) || (high & 0xffffffffff000080ull))
        return 0x0b;
    if ((low & 0xc) != 8 && (low & 0xffff000000000000ull))
        return 0x0b;
    if ((low & 0xc) || (high & 7) != 2)
        return 0x03;
    if (address >> 48)
        return 0x04;
    table = low & ADDRESS, levels = 4;
    for (shift = 12 + 9 * (levels - 1);; shift -= 9) {
        int is_page;

        at = (table >> 3) + (address >> shift & 0x1ff);
        if (at >= size)
            return shift == 39 ? 0x03 : 0x07;
        entry = words[at];
        if (!(entry & 3))
            return missing;
        is_page = shift == 12 || (shift <= 30 && (entry & 0x80));
        reserved = BEYOND | SNOOP_OR_TRANSIENT;
        if (!is_page)
            reserved |= 0x80;
        else
            reserved |= ((1ull << shift) - 1) & 0xfffffffff000ull;
        if (entry & reserved)
            return 0x0c;
        rights &= entry;
        if (!rights)
            return missing;
        if (is_page)
            break;
        table = entry & ADDRESS;
    }
    if (!(rights & needed))
        return missing;
    *host = (entry & ADDRESS & -(1ull << shift)) | (address & ((1ull << shift) - 1));
    return *host >> 20 == 0xfee ? 0x0e : 0;
}

void translate(const uint64_t *words, uint64_t size, uint64_t root, size_t count, const uint16_t *sources,
               const uint64_t *addresses, const uint8_t *writes, uint64_t *hosts, uint8_t *reasons)
{
    for (size_t n = 0; n < count; n++) {
        uint64_t host = ~0ull;

        reasons[n] = 0;
        if (addresses[n] >> 20 != 0xfee) /* in the interrupt range (3.14): blocked without a fault */
            reasons[n] = walk(words, size, root, sources[n], addresses[n], writes[n], &host);
        hosts[n] = reasons[n] ? ~0ull : host;
    }
}

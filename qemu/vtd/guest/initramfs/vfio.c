/*
 * Owns one PCI device through VFIO, inside a guest: maps memory for it and makes it do DMA.
 *
 * Commands are lines on stdin; each is answered by one line, "ok ..." or "error ...". Numbers are hexadecimal.
 *
 *   open BDF                       take the device, which vfio-pci has to own
 *   map IOVA SIZE r|w|rw 4k|2m     map new memory, filled by page; answers the physical address of each page
 *   unmap IOVA SIZE
 *   peek IOVA                      the quadword that memory holds at an IOVA
 *   poke IOVA VALUE                write it
 *   copy FROM TO LENGTH            have edu read LENGTH bytes at one IOVA and write them to another
 *   interrupts                     take the device's MSI
 *   interrupt                      have edu raise one, and wait for it; answers how many came
 *   quit
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAPPINGS 256
#define PAGE 4096ul
#define HUGE (2ul << 20)

/* edu's registers in BAR 0. */
#define RAISE 0x60
#define ACKNOWLEDGE 0x64
#define SOURCE 0x80
#define DESTINATION 0x88
#define COUNT 0x90
#define COMMAND 0x98
#define BUFFER 0x40000ul
#define TO_MEMORY 2

struct mapping {
    uint64_t iova, size;
    char *memory;
};

static struct mapping mappings[MAPPINGS];
static int used, container = -1, device = -1, event = -1;
static volatile char *registers;

static int failed(const char *what)
{
    printf("error %s: %s\n", what, strerror(errno));
    return -1;
}

static int refused(const char *why)
{
    printf("error %s\n", why);
    return -1;
}

static uint64_t physical(const void *memory)
{
    uint64_t entry = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    if (pagemap < 0)
        return 0;
    off_t where = (off_t)((uintptr_t)memory / PAGE * sizeof entry);
    if (pread(pagemap, &entry, sizeof entry, where) != sizeof entry)
        entry = 0;
    close(pagemap);
    return (entry & ((1ull << 55) - 1)) * PAGE;
}

static int open_group(const char *bdf)
{
    char link[PATH_MAX], group[256], path[PATH_MAX];
    snprintf(link, sizeof link, "/sys/bus/pci/devices/%s/iommu_group", bdf);
    ssize_t length = readlink(link, group, sizeof group - 1);
    if (length < 0)
        return failed("iommu_group");
    group[length] = 0;
    const char *number = strrchr(group, '/');
    snprintf(path, sizeof path, "/dev/vfio/%s", number ? number + 1 : group);
    int descriptor = open(path, O_RDWR);
    return descriptor < 0 ? failed("VFIO group") : descriptor;
}

/* Let the device be a bus master: bit 2 of the command register in its configuration space. */
static int enable_master(void)
{
    struct vfio_region_info info = { .argsz = sizeof info, .index = VFIO_PCI_CONFIG_REGION_INDEX };
    uint16_t command;
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
        return failed("configuration space");
    if (pread(device, &command, 2, (off_t)info.offset + 4) != 2)
        return failed("command register");
    command |= 6;
    if (pwrite(device, &command, 2, (off_t)info.offset + 4) != 2)
        return failed("command register");
    return 0;
}

static int map_registers(void)
{
    struct vfio_region_info info = { .argsz = sizeof info, .index = VFIO_PCI_BAR0_REGION_INDEX };
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info) || !info.size)
        return failed("BAR 0");
    void *at = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)info.offset);
    if (at == MAP_FAILED)
        return failed("BAR 0");
    registers = at;
    return 0;
}

static int take(const char *bdf)
{
    int group = open_group(bdf);
    if (group < 0)
        return -1;
    container = open("/dev/vfio/vfio", O_RDWR);
    if (container < 0)
        return failed("/dev/vfio/vfio");
    if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
        return failed("VFIO_GROUP_SET_CONTAINER");
    if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
        return failed("VFIO_SET_IOMMU");
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
    if (device < 0)
        return failed("VFIO_GROUP_GET_DEVICE_FD");
    if (enable_master() || map_registers())
        return -1;
    printf("ok\n");
    return 0;
}

static int map(uint64_t iova, uint64_t size, const char *access, const char *kind)
{
    uint64_t step = strcmp(kind, "2m") ? PAGE : HUGE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (step == HUGE ? MAP_HUGETLB : 0);
    if (used == MAPPINGS || !size || size % step || iova % step)
        return refused("cannot map that");
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED)
        return failed("memory");
    for (uint64_t at = 0; at < size; at += PAGE)
        *(uint64_t *)(memory + at) = iova + at + 0x5eed000000000001ull;
    struct vfio_iommu_type1_dma_map request = {
        .argsz = sizeof request,
        .flags = (strchr(access, 'r') ? VFIO_DMA_MAP_FLAG_READ : 0) | (strchr(access, 'w') ? VFIO_DMA_MAP_FLAG_WRITE : 0),
        .vaddr = (uintptr_t)memory,
        .iova = iova,
        .size = size,
    };
    if (ioctl(container, VFIO_IOMMU_MAP_DMA, &request)) {
        failed("VFIO_IOMMU_MAP_DMA");
        munmap(memory, size);
        return -1;
    }
    mappings[used++] = (struct mapping){ iova, size, memory };
    printf("ok");
    for (uint64_t at = 0; at < size; at += step)
        printf(" %" PRIx64, physical(memory + at));
    printf("\n");
    return 0;
}

static struct mapping *find(uint64_t iova)
{
    for (int n = 0; n < used; n++)
        if (iova - mappings[n].iova < mappings[n].size)
            return &mappings[n];
    return NULL;
}

static int unmap(uint64_t iova, uint64_t size)
{
    struct mapping *found = find(iova);
    struct vfio_iommu_type1_dma_unmap request = { .argsz = sizeof request, .iova = iova, .size = size };
    if (!found || found->iova != iova || found->size != size)
        return refused("no such mapping");
    if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &request))
        return failed("VFIO_IOMMU_UNMAP_DMA");
    munmap(found->memory, size);
    *found = mappings[--used];
    printf("ok\n");
    return 0;
}

static int peek(uint64_t iova)
{
    struct mapping *found = find(iova);
    if (!found)
        return refused("no such mapping");
    printf("ok %" PRIx64 "\n", *(volatile uint64_t *)(found->memory + (iova - found->iova)));
    return 0;
}

static int poke(uint64_t iova, uint64_t value)
{
    struct mapping *found = find(iova);
    if (!found)
        return refused("no such mapping");
    *(volatile uint64_t *)(found->memory + (iova - found->iova)) = value;
    printf("ok\n");
    return 0;
}

static void write64(unsigned where, uint64_t value)
{
    *(volatile uint64_t *)(registers + where) = value;
}

/* One transfer of edu, which takes it 100 ms; 0 when it has finished. */
static int transfer(uint64_t from, uint64_t to, uint64_t count, uint64_t direction)
{
    write64(SOURCE, from);
    write64(DESTINATION, to);
    write64(COUNT, count);
    write64(COMMAND, 1 | direction);
    for (int tries = 0; tries < 500; tries++) {
        if (!(*(volatile uint64_t *)(registers + COMMAND) & 1))
            return 0;
        nanosleep(&(struct timespec){ .tv_nsec = 10 * 1000 * 1000 }, NULL);
    }
    errno = ETIMEDOUT;
    return -1;
}

static int copy(uint64_t from, uint64_t to, uint64_t length)
{
    if (!registers)
        return refused("no device");
    if (!length || length > 4096)
        return refused("edu's buffer has 4096 bytes");
    if (transfer(from, BUFFER, length, 0) || transfer(BUFFER, to, length, TO_MEMORY))
        return failed("edu");
    printf("ok\n");
    return 0;
}

static int take_interrupts(void)
{
    char room[sizeof(struct vfio_irq_set) + sizeof(int)];
    struct vfio_irq_set *request = (struct vfio_irq_set *)room;
    event = eventfd(0, EFD_NONBLOCK);
    request->argsz = sizeof room;
    request->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    request->index = VFIO_PCI_MSI_IRQ_INDEX;
    request->start = 0;
    request->count = 1;
    memcpy(request->data, &event, sizeof event);
    if (event < 0 || ioctl(device, VFIO_DEVICE_SET_IRQS, request))
        return failed("VFIO_DEVICE_SET_IRQS");
    printf("ok\n");
    return 0;
}

static int interrupt(void)
{
    uint64_t count = 0;
    if (event < 0 || !registers)
        return refused("no interrupts");
    *(volatile uint32_t *)(registers + RAISE) = 1;
    poll(&(struct pollfd){ .fd = event, .events = POLLIN }, 1, 2000);
    if (read(event, &count, sizeof count) != sizeof count)
        count = 0;
    *(volatile uint32_t *)(registers + ACKNOWLEDGE) = 1;
    printf("ok %" PRIx64 "\n", count);
    return 0;
}

static int obey(char *line)
{
    char word[4][64] = { "", "", "", "" }, command[64] = "";
    uint64_t number[3] = { 0, 0, 0 };
    int words = sscanf(line, "%63s %63s %63s %63s %63s", command, word[0], word[1], word[2], word[3]) - 1;
    for (int n = 0; n < 3; n++)
        number[n] = strtoull(word[n], NULL, 16);
    if (!strcmp(command, "open") && words == 1)
        return take(word[0]);
    if (!strcmp(command, "map") && words == 4)
        return map(number[0], number[1], word[2], word[3]);
    if (!strcmp(command, "unmap") && words == 2)
        return unmap(number[0], number[1]);
    if (!strcmp(command, "peek") && words == 1)
        return peek(number[0]);
    if (!strcmp(command, "poke") && words == 2)
        return poke(number[0], number[1]);
    if (!strcmp(command, "copy") && words == 3)
        return copy(number[0], number[1], number[2]);
    if (!strcmp(command, "interrupts") && words == 0)
        return take_interrupts();
    if (!strcmp(command, "interrupt") && words == 0)
        return interrupt();
    return refused("no such command");
}

int main(void)
{
    char line[512];
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!strcmp(line, "quit"))
            return 0;
        if (*line)
            obey(line);
    }
    return 0;
}

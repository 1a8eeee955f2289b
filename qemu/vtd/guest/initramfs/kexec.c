/*
 * Loads another kernel, inside a guest, and goes over to it.
 *
 *   kexec load KERNEL INITRD COMMAND-LINE    the kernel that "kexec go" starts
 *   kexec crash KERNEL INITRD COMMAND-LINE   the kernel that a panic starts, in the memory of crashkernel=
 *   kexec go
 */
#include <fcntl.h>
#include <linux/kexec.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static int load(const char *kernel, const char *initrd, const char *command_line, unsigned long flags)
{
    int image = open(kernel, O_RDONLY), archive = open(initrd, O_RDONLY);
    if (image < 0)
        return failed(kernel);
    if (archive < 0)
        return failed(initrd);
    /* The length counts the terminating zero. */
    if (syscall(SYS_kexec_file_load, image, archive, strlen(command_line) + 1, command_line, flags))
        return failed("kexec_file_load");
    return 0;
}

int main(int count, char **words)
{
    if (count == 5 && !strcmp(words[1], "load"))
        return load(words[2], words[3], words[4], 0);
    if (count == 5 && !strcmp(words[1], "crash"))
        return load(words[2], words[3], words[4], KEXEC_FILE_ON_CRASH);
    if (count == 2 && !strcmp(words[1], "go")) {
        reboot(RB_KEXEC);
        return failed("reboot");
    }
    fputs("kexec load|crash KERNEL INITRD COMMAND-LINE, or kexec go\n", stderr);
    return 2;
}

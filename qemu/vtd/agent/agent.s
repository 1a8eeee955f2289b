# The guest-side agent: it runs scripts of operations that the host leaves in shared RAM, faster than any connection.
#
# QEMU starts it from the reset vector. It enters flat 32-bit mode and waits at the mailbox; when `seq` differs from
# `done`, it runs the script and then stores `seq` in `done`. An operation is 16 bytes: its number, a physical address,
# a 64-bit value. What an operation reads replaces its own value. A 64-bit access is a single one: MMX does it.
#
# While there is nothing to do the processor is halted: the host wakes it by an NMI. Other interrupts stay off, and an
# exception ends QEMU, if it was told not to reboot.

        .file   "agent.s"

# The mailbox: 32-bit words.
        .equ    MAILBOX_SEQ, 0                  # written last by the host
        .equ    MAILBOX_DONE, 4
        .equ    MAILBOX_SCRIPT, 8               # the script's address
        .equ    MAILBOX_STOPPED, 12             # the address of an operation that does not exist; 0 if there was none
        .equ    MAILBOX_SIZE, 64                # the stack is at its end

# An operation.
        .equ    OPERATION_SIZE, 16
        .equ    ADDRESS, 4
        .equ    LOW, 8
        .equ    HIGH, 12

# The operations, in the order of `operations`.
        .equ    OP_END, 0
        .equ    OP_WRITE_32, 1
        .equ    OP_WRITE_64, 2
        .equ    OP_READ_32, 3
        .equ    OP_READ_64, 4
        .equ    OP_SKIP, 5                      # skips ADDRESS operations if the one before has read no bit of the value
        .equ    OP_COUNT, 6

        .equ    PROTECTED, 1 << 0               # CR0.PE
        .equ    NO_MMX, 1 << 2 | 1 << 3         # CR0.EM, CR0.TS
        .equ    CODE, 8
        .equ    DATA, 16

        .equ    LOCAL_INTERRUPT_1, 0xfee00360   # of the local APIC
        .equ    AS_NMI, 4 << 8

        .section .text
        .code16
        .globl  start
start:
        cli
        lgdtl   %cs:(gdt_register - start)
        lidtl   %cs:(idt_register - start)
        movl    %cr0, %eax
        andl    $~NO_MMX, %eax
        orl     $PROTECTED, %eax
        movl    %eax, %cr0
        ljmpl   $CODE, $flat

        .code32
flat:
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    mailbox, %ebp
        leal    MAILBOX_SIZE(%ebp), %esp
        movl    $AS_NMI, LOCAL_INTERRUPT_1

wait:
        movl    MAILBOX_SEQ(%ebp), %eax
        cmpl    MAILBOX_DONE(%ebp), %eax
        jne     run
        hlt
        jmp     wait
run:
        movl    MAILBOX_SCRIPT(%ebp), %esi

next:
        movl    (%esi), %ecx
        movl    ADDRESS(%esi), %edi
        cmpl    $OP_COUNT, %ecx
        jae     unknown
        addl    $OPERATION_SIZE, %esi
        jmp     *operations(, %ecx, 4)

write_32:
        movl    LOW - OPERATION_SIZE(%esi), %eax
        movl    %eax, (%edi)
        jmp     next

write_64:
        movq    LOW - OPERATION_SIZE(%esi), %mm0
        movq    %mm0, (%edi)
        jmp     next

read_32:
        movl    (%edi), %eax
        movl    %eax, LOW - OPERATION_SIZE(%esi)
        movl    $0, HIGH - OPERATION_SIZE(%esi)
        jmp     next

read_64:
        movq    (%edi), %mm0
        movq    %mm0, LOW - OPERATION_SIZE(%esi)
        jmp     next

skip:
        movl    LOW - 2 * OPERATION_SIZE(%esi), %eax
        movl    HIGH - 2 * OPERATION_SIZE(%esi), %edx
        andl    LOW - OPERATION_SIZE(%esi), %eax
        andl    HIGH - OPERATION_SIZE(%esi), %edx
        orl     %edx, %eax
        jnz     next
        shll    $4, %edi                        # times OPERATION_SIZE
        addl    %edi, %esi
        jmp     next

unknown:
        movl    %esi, MAILBOX_STOPPED(%ebp)
end:
        movl    MAILBOX_SEQ(%ebp), %eax
        movl    %eax, MAILBOX_DONE(%ebp)
        jmp     wait

# The host has written `seq`. If that was after the look at it and before the halt, it is looked at again.
nmi:
        cmpl    $wait, (%esp)
        jb      return
        cmpl    $run, (%esp)
        jae     return
        movl    $wait, (%esp)
return:
        iretl

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff              # code: base 0, limit 4 GiB, 32 bits
        .quad   0x00cf92000000ffff              # data, likewise
gdt_register:
        .word   gdt_register - gdt - 1
        .long   gdt

        .balign 8
idt:
        .quad   0, 0
        .word   nmi - start, CODE, 0x8e00, 0xffff  # vector 2: an interrupt gate, at 0xffff0000 and so much
idt_register:
        .word   idt_register - idt - 1
        .long   idt

        .balign 4
operations:
        .long   end, write_32, write_64, read_32, read_64, skip

        .globl  mailbox
mailbox:
        .long   0                               # its address: the loader puts it here

# The processor starts here, 16 bytes below 4 GiB; the image's first byte is 64 KiB below.
        .section .reset, "ax"
        .code16
reset:
        jmp     start

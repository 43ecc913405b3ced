# The code that every kernel module of ours starts with: compiled here for any x86-64 kernel, embedded in the
# library. Returns go through the kernel's thunk; write_module() makes them plain ones where the kernel has none.
find_program(UJIT_KERNEL_CLANG NAMES clang-19 clang REQUIRED)
set(module_init_dir ${CMAKE_BINARY_DIR}/kernel-iface/linux)
file(MAKE_DIRECTORY ${module_init_dir})
add_custom_command(
  OUTPUT ${module_init_dir}/module_init.h
  COMMAND ${UJIT_KERNEL_CLANG} --target=x86_64-linux-gnu -O2 -std=gnu11 -I${CMAKE_SOURCE_DIR} -ffreestanding -fno-builtin
          -fno-pic -fno-pie -mcmodel=kernel -mno-red-zone -mgeneral-regs-only -fno-stack-protector
          -fno-asynchronous-unwind-tables -fno-omit-frame-pointer -fcf-protection=branch -mfunction-return=thunk-extern
          -mharden-sls=all -mretpoline-external-thunk -fno-jump-tables -fno-common -fno-ident -Wall -Wextra
          -Wno-unused-parameter -c module_init.c -o ${module_init_dir}/module_init.o
  COMMAND ${CMAKE_COMMAND} -DINPUT=${module_init_dir}/module_init.o -DOUTPUT=${module_init_dir}/module_init.h
          -DNAME=module_init_object -P ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/module_init.c ${CMAKE_CURRENT_LIST_DIR}/module_table.h
          ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  WORKING_DIRECTORY ${CMAKE_CURRENT_LIST_DIR}
  COMMENT "Compiling module_init.c")
target_sources(ujit_linux PRIVATE ${module_init_dir}/module_init.h)
target_include_directories(ujit_linux PRIVATE ${module_init_dir})

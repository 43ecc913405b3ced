# The BPF programs that read verified code: compiled here, embedded in the library.
find_program(UJIT_BPF_CLANG NAMES clang-19 clang REQUIRED)
find_program(UJIT_BPF_STRIP NAMES llvm-strip-19 llvm-strip REQUIRED)
set(iterators_dir ${CMAKE_BINARY_DIR}/kernel-iface/linux)
file(MAKE_DIRECTORY ${iterators_dir})
add_custom_command(
  OUTPUT ${iterators_dir}/iterators.bpf.h
  COMMAND ${UJIT_BPF_CLANG} -O2 -g -target bpf -mcpu=v3 -Wall -fdebug-compilation-dir=.
          -I/usr/include/${CMAKE_CXX_LIBRARY_ARCHITECTURE} -c iterators.bpf.c -o ${iterators_dir}/iterators.bpf.o
  COMMAND ${UJIT_BPF_STRIP} -g ${iterators_dir}/iterators.bpf.o # keeps BTF
  COMMAND ${CMAKE_COMMAND} -DINPUT=${iterators_dir}/iterators.bpf.o -DOUTPUT=${iterators_dir}/iterators.bpf.h
          -DNAME=iterators_object -P ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/iterators.bpf.c ${CMAKE_CURRENT_LIST_DIR}/iterators.h ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  WORKING_DIRECTORY ${CMAKE_CURRENT_LIST_DIR}
  COMMENT "Compiling iterators.bpf.c")
target_sources(ujit_linux PRIVATE ${iterators_dir}/iterators.bpf.h)

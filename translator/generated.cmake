# What is generated at build time for the translator: the helper table, from libbpf's own header.
find_file(BPF_HELPER_DEFS bpf/bpf_helper_defs.h HINTS ${LIBBPF_INCLUDE_DIRS} REQUIRED)
set(helper_table ${CMAKE_CURRENT_BINARY_DIR}/generated/helper_table.inc)
add_custom_command(
  OUTPUT ${helper_table}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/generated
  COMMAND ${CMAKE_COMMAND} -DHEADER=${BPF_HELPER_DEFS} -DOUTPUT=${helper_table}
          -P ${CMAKE_CURRENT_LIST_DIR}/helper_table.cmake
  DEPENDS ${BPF_HELPER_DEFS} ${CMAKE_CURRENT_LIST_DIR}/helper_table.cmake
  COMMENT "Generating the helper table from ${BPF_HELPER_DEFS}"
  VERBATIM)
target_sources(ujit_translator PRIVATE ${helper_table})
target_include_directories(ujit_translator PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)

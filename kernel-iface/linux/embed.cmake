# cmake -DINPUT=file -DOUTPUT=header -DNAME=array -P embed.cmake: a file as an array of bytes.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "((0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,))" "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT} "#pragma once\nalignas(8) inline constexpr unsigned char ${NAME}[] = {\n${bytes}};\n")

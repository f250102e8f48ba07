# The CUDA toolkit, only where one is named: `make cuda` configures with the one that tools/dev/cuda_home finds. Without it
# nothing here looks for CUDA. Sets SHOAL_CUDA_LIBRARY_FOLDERS and shoal::dep_cuda (headers, and the runtime as a static
# library). Links neither cuBLASLt nor NCCL: kernels/cuda/CMakeLists.txt has why.
set(SHOAL_CUDA_HOME "" CACHE PATH "Root of a CUDA toolkit >= 13.0 (bin/nvcc); empty: build no CUDA plug-in")
if(NOT SHOAL_CUDA_HOME)
  return()
endif()
if(NOT EXISTS ${SHOAL_CUDA_HOME}/bin/nvcc)
  message(FATAL_ERROR "There is no CUDA toolkit at ${SHOAL_CUDA_HOME} any more. `make cuda` finds or fetches one; "
                      "`cmake -DSHOAL_CUDA_HOME= ${CMAKE_BINARY_DIR}` goes on without.")
endif()

# Machine code for sm_80 (it runs on every 8.x) and sm_90a (Hopper, with its own instructions), and compute_80 PTX, from which
# the driver compiles for anything later.
set(CMAKE_CUDA_ARCHITECTURES "80;90a-real")
set(CMAKE_CUDA_COMPILER ${SHOAL_CUDA_HOME}/bin/nvcc)
if(NOT SHOAL_CUDA_HOME STREQUAL "${SHOAL_CUDA_CONFIGURED}")  # CMake would go on with the compiler that it found first
  file(REMOVE ${CMAKE_PLATFORM_INFO_DIR}/CMakeCUDACompiler.cmake)
  set(SHOAL_CUDA_CONFIGURED ${SHOAL_CUDA_HOME} CACHE INTERNAL "The toolkit of the last configuration")
endif()
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # dep_cuda names it
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)

# -fmad=false is -ffp-contract=off for the device: a fused multiply-add only
# where a kernel says fmaf(). ptxas -v: registers, shared memory and spills of each kernel, which the launcher keeps.
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-fmad=false -Xptxas=-v -Werror=all-warnings>"
                    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror,-ffp-contract=off,-fno-math-errno>")
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_SOURCE_DIR}/tools/dev/keep_ptxas ${SHOAL_CCACHE})

find_file(SHOAL_CUDART NAMES lib64/libcudart_static.a lib/libcudart_static.a PATHS ${SHOAL_CUDA_HOME} NO_DEFAULT_PATH
  NO_CACHE REQUIRED)
find_path(SHOAL_NCCL_INCLUDE nccl.h HINTS ${SHOAL_CUDA_HOME}/include $ENV{NCCL_HOME}/include NO_CACHE REQUIRED)
set(SHOAL_CUDA_LIBRARY_FOLDERS ${SHOAL_CUDA_HOME}/lib64)
if(DEFINED ENV{NCCL_HOME})
  list(APPEND SHOAL_CUDA_LIBRARY_FOLDERS $ENV{NCCL_HOME}/lib)
endif()
add_library(shoal_dep_cuda INTERFACE)
target_include_directories(shoal_dep_cuda SYSTEM INTERFACE ${SHOAL_CUDA_HOME}/include ${SHOAL_NCCL_INCLUDE})
target_link_libraries(shoal_dep_cuda INTERFACE ${SHOAL_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
add_library(shoal::dep_cuda ALIAS shoal_dep_cuda)

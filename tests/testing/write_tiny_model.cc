// Writes a tiny model for tests that are no C++: `write_tiny_model DIRECTORY`, a Hugging Face directory in bf16.
// Tested by: tests/e2e/cuda_test.py
#include <cstdio>

#include "tests/testing/tiny_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_tiny_model DIRECTORY\n");
    return 2;
  }
  const shoal::testing::TinyModel model = {.matrices = shoal::DType::kBF16, .embedding = shoal::DType::kBF16};
  shoal::testing::WriteTinyDirectory(model, argv[1]);
  return 0;
}

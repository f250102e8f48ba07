// The kernel of sm80/linear/tile.h for rows that are sorted by expert: a thread block finds on the device whose rows
// its tile has. Tiles of tokens are those of expert 0, then of expert 1, ..., so that a tile has one expert's rows
// alone; a launch has as many as any routes fill, and those beyond end at once.
#pragma once

#include "kernels/cuda/experts.h"
#include "kernels/cuda/sm80/linear/tile.h"

namespace shoal::cuda::linear {

struct ExpertPlace : Place {
  int tokens_end;  // of the expert
  int expert;
};

struct ExpertWork {
  Linear op;  // of expert 0; tokens: rows of all experts
  Grid grid;
  int64_t stride;
  const int32_t* first;
  int experts;

  using Place = ExpertPlace;
  static constexpr bool kMayIdle = true;
  static SHOAL_HD constexpr bool Has(DType type, int tile) { return HasExpertTile(type, tile); }
  __device__ ExpertPlace Find(int tile_rows, int tile_tokens) const {
    ExpertPlace place = {PlaceOf(grid, tile_rows, 1, static_cast<int>(blockIdx.x)), 0, 0};
    FindExpert(place.token, tile_tokens, &place);
    return place;
  }
  __device__ int TokensEnd(const ExpertPlace& place) const { return place.tokens_end; }
  __device__ const void* Weights(const ExpertPlace& place) const {
    return static_cast<const char*>(op.parts[place.part].w) + place.expert * stride;
  }
  __device__ int64_t Feature(const ExpertPlace& place, int row) const {
    return static_cast<int64_t>(place.expert) * op.parts[place.part].n + place.row + row;
  }

 private:
  __device__ int TilesOf(int expert, int tile_tokens) const {
    return CeilDiv(first[expert + 1] - first[expert], tile_tokens);
  }
  // The expert and the tokens of tile `tile` of tokens; none where there are fewer. A warp searches: each lane has some
  // neighbouring experts.
  __device__ void FindExpert(int tile, int tile_tokens, ExpertPlace* place) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, each = CeilDiv(experts, 32);
    const int begin = min(lane * each, experts), end = min(begin + each, experts);
    int own = 0;
    for (int e = begin; e < end; ++e) own += TilesOf(e, tile_tokens);
    int before = own;
    SHOAL_UNROLL for (int d = 1; d < 32; d *= 2) {
      const int other = Shuffle(before, lane >= d ? lane - d : lane);
      if (lane >= d) before += other;
    }
    before -= own;
    const bool found = tile >= before && tile < before + own;
    int expert = begin, of_expert = tile - before;
    if (found) {
      for (int tiles = TilesOf(expert, tile_tokens); of_expert >= tiles; tiles = TilesOf(expert, tile_tokens)) {
        of_expert -= tiles;
        ++expert;
      }
    }
    const uint32_t finder = Ballot(found);
    if (finder == 0) {
      place->token = 0;
      return;
    }
    const int source = __popc((finder - 1) & ~finder);  // the only one's lane
    place->expert = Shuffle(expert, source);
    place->token = first[place->expert] + Shuffle(of_expert, source) * tile_tokens;
    place->tokens_end = first[place->expert + 1];
  }
};

// One for each type of weight; a source each.
absl::Status LaunchExpertsBf16(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsF16(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsQ8_0(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsQ4_0(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsQ4_1(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsF8E4M3(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsI4(DeviceStream stream, int tile, const ExpertWork& work);
absl::Status LaunchExpertsI8(DeviceStream stream, int tile, const ExpertWork& work);

}  // namespace shoal::cuda::linear

#include "generated.h"

#include <algorithm>
#include <utility>

#include "emitter.h"

namespace topkast {
namespace {

constexpr int64_t kStep = Emitter::kMost - Emitter::kLeast + 1;
constexpr int kFirstInput = kCodeGroup, kLastInput = 31;

// An array that the code reads from its begin to its end. The register that points into it
// moves on when the next offset does not fit.
struct Cursor {
  Base base;
  int64_t unit;  // bytes of an entry of the array
  int64_t at = 0;

  int64_t OffsetOf(int64_t index, Emitter& emitter) {
    for (; index - at > Emitter::kMost; at += kStep) {
      emitter.Advance(base, static_cast<int32_t>(kStep * unit));
    }
    return index - at;
  }
};

int64_t GroupsOf(const Pattern& pattern) {
  return (pattern.rows + kCodeGroup - 1) / kCodeGroup;
}

// masks[col] = the rows from `first` up to `last` with an entry in this column, as bits.
void MasksOf(const Pattern& pattern, int64_t first, int64_t last, uint32_t* masks) {
  std::fill(masks, masks + pattern.cols, 0u);
  const uint8_t* codes = pattern.codes + first * pattern.row_stride;
  const int64_t rows = last - first;
  // The codes are read in the order of memory, whichever axis that is.
  if (pattern.col_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* of_row = codes + r * pattern.row_stride;
      const uint32_t bit = uint32_t{1} << r;
      for (int64_t c = 0; c < pattern.cols; ++c) {
        masks[c] |= of_row[c] >= pattern.threshold ? bit : 0u;
      }
    }
    return;
  }
  for (int64_t c = 0; c < pattern.cols; ++c) {
    const uint8_t* of_col = codes + c * pattern.col_stride;
    for (int64_t r = 0; r < rows; ++r) {
      const bool exists = of_col[r * pattern.row_stride] >= pattern.threshold;
      masks[c] |= static_cast<uint32_t>(exists) << r;
    }
  }
}

// Writes one block of `rows` rows and `cols` columns, whose masks are given; returns the
// number of its entries.
int64_t EmitBlock(const uint32_t* masks, int64_t cols, int rows, bool is_first,
                  Emitter& emitter) {
  for (int r = 0; r < rows; ++r) {
    is_first ? emitter.Zero(r) : emitter.Load(r, Base::kRdx, r);
  }
  Cursor inputs{Base::kRdi, 4 * kCodeLanes}, values{Base::kRsi, 4};
  int64_t entry = 0;
  int input = kFirstInput;
  for (int64_t c = 0; c < cols; ++c) {
    uint32_t mask = masks[c];
    if (mask == 0) continue;
    emitter.Load(input, inputs.base, inputs.OffsetOf(c, emitter));
    for (; mask != 0; mask &= mask - 1) {
      emitter.MultiplyAdd(__builtin_ctz(mask), input, values.base,
                          values.OffsetOf(entry++, emitter));
    }
    input = input == kLastInput ? kFirstInput : input + 1;
  }
  for (int r = 0; r < rows; ++r) emitter.Store(r, Base::kRdx, r);
  emitter.Return();
  return entry;
}

// The place of each entry in the weight, in the order of the code.
std::vector<int32_t> SourceOf(const Pattern& pattern, const std::vector<uint32_t>& masks,
                              int64_t entries) {
  std::vector<int32_t> source;
  source.reserve(entries);
  const int64_t groups = GroupsOf(pattern);
  for (int64_t col = 0; col < pattern.cols; col += kCodeTile) {
    const int64_t end = std::min(pattern.cols, col + kCodeTile);
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t c = col; c < end; ++c) {
        const int64_t place =
            g * kCodeGroup * pattern.row_stride + c * pattern.col_stride;
        for (uint32_t mask = masks[g * pattern.cols + c]; mask != 0; mask &= mask - 1) {
          source.push_back(
              static_cast<int32_t>(place + __builtin_ctz(mask) * pattern.row_stride));
        }
      }
    }
  }
  return source;
}

}  // namespace

std::shared_ptr<Generated> Generate(const Pattern& pattern, bool may_mask) {
  if (!CodePagesAllowed()) return nullptr;
  const int64_t rows = pattern.rows, cols = pattern.cols;
  const int64_t groups = GroupsOf(pattern);
  const int64_t tiles = (cols + kCodeTile - 1) / kCodeTile;
  std::vector<uint32_t> masks(groups * cols);
  int64_t entries = 0, loads = 0;
  for (int64_t g = 0; g < groups; ++g) {
    uint32_t* of_group = masks.data() + g * cols;
    const int64_t first = g * kCodeGroup;
    MasksOf(pattern, first, std::min(rows, first + kCodeGroup), of_group);
    for (int64_t c = 0; c < cols; ++c) {
      entries += __builtin_popcount(of_group[c]);
      loads += of_group[c] != 0;
    }
  }
  // Of a block: its sums are read and written, its cursors move, it returns, and its begin
  // is aligned.
  const int64_t of_block =
      Emitter::kLongest * (2 * kCodeGroup + kCodeTile / kStep + 1 + 1) + 64;
  const int64_t most = Emitter::kLongest * (entries + loads + entries / kStep) +
                       of_block * groups * tiles + 1;
  if (most > kMostCode) return nullptr;

  auto made = std::make_shared<Generated>(most);
  if (made->pages.data() == nullptr) return nullptr;
  made->rows = rows;
  made->cols = cols;
  made->groups = groups;
  made->tiles = tiles;
  made->begin.reserve(groups * tiles + 1);
  made->first_entry.reserve(groups * tiles + 1);
  Emitter emitter(made->pages.data());
  int64_t entry = 0;
  auto mark = [&] {
    made->begin.push_back(static_cast<int32_t>(emitter.at() - made->pages.data()));
    made->first_entry.push_back(static_cast<int32_t>(entry));
  };
  for (int64_t col = 0; col < cols; col += kCodeTile) {
    for (int64_t g = 0; g < groups; ++g) {
      emitter.Align(64);
      mark();
      entry += EmitBlock(masks.data() + g * cols + col, std::min(kCodeTile, cols - col),
                         static_cast<int>(std::min(kCodeGroup, rows - g * kCodeGroup)),
                         col == 0, emitter);
    }
  }
  mark();
  const bool are_neighbours = pattern.row_stride == 1 && pattern.col_stride == rows;
  if (may_mask && are_neighbours && made->is_long()) {
    made->masks = std::move(masks);
  } else {
    made->source = SourceOf(pattern, masks, entries);
  }
  return made->pages.Seal() ? made : nullptr;
}

}  // namespace topkast

#include "matrix_plan.h"

#include "ranks.h"

namespace topkast {
namespace {

// Where each line begins in the vector of the entries of B.
void AddLines(const Ranks& ranks, int64_t inputs, int64_t outputs, MatrixPlan* plan) {
  plan->lines = (outputs + MatrixPlan::kLine - 1) / MatrixPlan::kLine;
  plan->line_start.reserve(inputs * plan->lines);
  for (int64_t input = 0; input < inputs; ++input) {
    for (int64_t line = 0; line < plan->lines; ++line) {
      plan->line_start.push_back(ranks.Of(input * outputs + line * MatrixPlan::kLine));
    }
  }
}

}  // namespace

MatrixPlan MakeMatrixPlan(const Pattern& pattern, int tile, Vector vector) {
  const Plan wide = MakePlan(pattern, tile);
  MatrixPlan plan;
  static_cast<Runs&>(plan) = wide;  // copies have no room to spare
  plan.row_stride = pattern.row_stride;
  plan.col_stride = pattern.col_stride;
  plan.rows_are_inputs = pattern.col_stride == 1;
  plan.col.assign(wide.col.begin(), wide.col.end());
  if (vector == Vector::kNone) return plan;
  const Ranks ranks(pattern.codes, pattern.rows * pattern.cols);
  if (vector == Vector::kOfThese) {
    const int64_t runs = wide.runs();
    plan.run_source.reserve(runs);
    for (int64_t run = 0; run < runs; ++run) {
      const int32_t first = wide.first_entry[run];
      // A run without entries reads none.
      const bool is_empty = first == wide.first_entry[run + 1];
      plan.run_source.push_back(is_empty ? 0 : ranks.Of(wide.source[first]));
    }
  } else {
    const int64_t inputs = plan.rows_are_inputs ? plan.rows : plan.cols;
    const int64_t outputs = plan.rows_are_inputs ? plan.cols : plan.rows;
    AddLines(ranks, inputs, outputs, &plan);
    plan.in_line.reserve(wide.source.size());
    for (const int32_t place : wide.source) {
      const int64_t input = place / outputs, output = place % outputs;
      const int64_t line = input * plan.lines + output / MatrixPlan::kLine;
      plan.in_line.push_back(
          static_cast<uint16_t>(ranks.Of(place) - plan.line_start[line]));
    }
  }
  return plan;
}

}  // namespace topkast

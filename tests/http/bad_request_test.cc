// What is wrong with a request, one row each: the status, the code and the param that clients see. And what must pass.
#include <gtest/gtest.h>

#include "coordinator/http/generation_spec.h"
#include "tests/http/api_fixture.h"

namespace shoal::http {
namespace {

struct Bad {
  const char* name;
  const char* path;
  std::string body;
  const char* code;
  const char* param;  // JSON
};

constexpr char kChat[] = "/v1/chat/completions";
constexpr char kText[] = "/v1/completions";

std::string C(const std::string& extra) { return R"({"messages":[{"role":"user","content":"hi"}],)" + extra + "}"; }
std::string M(const std::string& messages) { return R"({"messages":)" + messages + "}"; }
std::string P(const std::string& extra) { return R"({"prompt":"hi",)" + extra + "}"; }

class BadRequestTest : public ApiFixture, public ::testing::WithParamInterface<Bad> {};

TEST_P(BadRequestTest, IsA400ThatNamesTheField) {
  const RawResponse response = Post(GetParam().path, GetParam().body);
  EXPECT_EQ(response.status, 400) << response.body;
  const auto body = Json(response.body);
  EXPECT_EQ(At(body, "error.code"), std::string("\"") + GetParam().code + "\"") << response.body;
  EXPECT_EQ(At(body, "error.param"), GetParam().param) << response.body;
  EXPECT_EQ(At(body, "error.type"), "\"invalid_request_error\"");
  EXPECT_EQ(engine_.submitted(), 0);
}

std::string Nested(int levels) {
  return R"({"prompt":"a","x":)" + std::string(levels, '[') + std::string(levels, ']') + "}";
}

INSTANTIATE_TEST_SUITE_P(
    Json, BadRequestTest,
    ::testing::Values(Bad{"empty", kChat, "", "invalid_json", "null"},
                      Bad{"cut", kChat, R"({"messages":)", "invalid_json", "null"},
                      Bad{"array", kChat, "[]", "invalid_json", "null"},
                      Bad{"text", kText, "hello", "invalid_json", "null"},
                      Bad{"trailing", kText, R"({"prompt":"a"} x)", "invalid_json", "null"},
                      Bad{"nan", kText, R"({"prompt":"a","temperature":NaN})", "invalid_json", "null"},
                      Bad{"invalid_utf8", kText, "{\"prompt\":\"\xFF\xFE\"}", "invalid_json", "null"},
                      Bad{"cut_utf8", kText, "{\"prompt\":\"\xE2\x82\"}", "invalid_json", "null"},
                      Bad{"lone_surrogate", kText, R"({"prompt":"\ud800"})", "invalid_json", "null"},
                      Bad{"deep", kText, Nested(100), "invalid_json", "null"},
                      Bad{"very_deep", kText, Nested(100000), "invalid_json", "null"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Types, BadRequestTest,
    ::testing::Values(
        Bad{"messages_missing", kChat, "{}", "missing_required_parameter", "\"messages\""},
        Bad{"messages_null", kChat, R"({"messages":null})", "missing_required_parameter", "\"messages\""},
        Bad{"messages_empty", kChat, M("[]"), "invalid_value", "\"messages\""},
        Bad{"messages_string", kChat, M("\"hi\""), "invalid_value", "\"messages\""},
        Bad{"message_string", kChat, M("[\"hi\"]"), "invalid_value", "\"messages[0]\""},
        Bad{"role_missing", kChat, M(R"([{"content":"a"}])"), "missing_required_parameter", "\"messages[0].role\""},
        Bad{"role_unknown", kChat, M(R"([{"role":"user","content":"a"},{"role":"boss","content":"a"}])"),
            "invalid_value", "\"messages[1].role\""},
        Bad{"role_number", kChat, M(R"([{"role":1,"content":"a"}])"), "invalid_value", "\"messages[0].role\""},
        Bad{"content_missing", kChat, M(R"([{"role":"user"}])"), "missing_required_parameter",
            "\"messages[0].content\""},
        Bad{"content_number", kChat, M(R"([{"role":"user","content":7}])"), "invalid_value", "\"messages[0].content\""},
        Bad{"part_image", kChat, M(R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])"),
            "unsupported_parameter", "\"messages[0].content[0].type\""},
        Bad{"part_without_text", kChat, M(R"([{"role":"user","content":[{"type":"text"}]}])"), "invalid_value",
            "\"messages[0].content[0].text\""},
        Bad{"part_string", kChat, M(R"([{"role":"user","content":["a"]}])"), "invalid_value",
            "\"messages[0].content[0]\""},
        Bad{"template_refuses", kChat, M(R"([{"role":"tool","content":"a"}])"), "invalid_value", "\"messages\""},
        Bad{"kwargs_list", kChat, C(R"("chat_template_kwargs":[])"), "invalid_value", "\"chat_template_kwargs\""},
        Bad{"prompt_missing", kText, "{}", "missing_required_parameter", "\"prompt\""},
        Bad{"prompt_empty", kText, R"({"prompt":""})", "invalid_value", "\"prompt\""},
        Bad{"prompt_list_empty", kText, R"({"prompt":[]})", "invalid_value", "\"prompt\""},
        Bad{"prompt_number", kText, R"({"prompt":5})", "invalid_value", "\"prompt\""},
        Bad{"prompt_two", kText, R"({"prompt":["a","b"]})", "unsupported_parameter", "\"prompt\""},
        Bad{"prompt_two_id_lists", kText, R"({"prompt":[[1],[2]]})", "unsupported_parameter", "\"prompt\""},
        Bad{"prompt_ids_out_of_range", kText, R"({"prompt":[1,258]})", "invalid_value", "\"prompt[1]\""},
        Bad{"prompt_ids_negative", kText, R"({"prompt":[1,-5]})", "invalid_value", "\"prompt[1]\""},
        Bad{"prompt_ids_mixed", kText, R"({"prompt":[1,"a"]})", "invalid_value", "\"prompt[1]\""},
        Bad{"prompt_nested_deeper", kText, R"({"prompt":[[[1]]]})", "invalid_value", "\"prompt\""},
        Bad{"model_number", kText, P(R"("model":1)"), "invalid_value", "\"model\""},
        Bad{"model_long", kText, P(R"("model":")" + std::string(300, 'x') + "\""), "invalid_value", "\"model\""},
        Bad{"stream_string", kText, P(R"("stream":"yes")"), "invalid_value", "\"stream\""},
        Bad{"stream_options_alone", kText, P(R"("stream_options":{"include_usage":true})"), "invalid_value",
            "\"stream_options\""},
        Bad{"stream_options_list", kText, P(R"("stream":true,"stream_options":[])"), "invalid_value",
            "\"stream_options\""},
        Bad{"include_usage_number", kText, P(R"("stream":true,"stream_options":{"include_usage":1})"), "invalid_value",
            "\"stream_options.include_usage\""}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Ranges, BadRequestTest,
    ::testing::Values(
        Bad{"temperature_negative", kChat, C(R"("temperature":-0.1)"), "invalid_value", "\"temperature\""},
        Bad{"temperature_high", kChat, C(R"("temperature":2.1)"), "invalid_value", "\"temperature\""},
        Bad{"temperature_string", kChat, C(R"("temperature":"hot")"), "invalid_value", "\"temperature\""},
        Bad{"temperature_huge", kChat, C(R"("temperature":1e400)"), "invalid_value", "\"temperature\""},
        Bad{"top_p_zero", kChat, C(R"("top_p":0)"), "invalid_value", "\"top_p\""},
        Bad{"top_p_high", kChat, C(R"("top_p":1.5)"), "invalid_value", "\"top_p\""},
        Bad{"top_k_low", kChat, C(R"("top_k":-2)"), "invalid_value", "\"top_k\""},
        Bad{"top_k_fraction", kChat, C(R"("top_k":1.5)"), "invalid_value", "\"top_k\""},
        Bad{"min_p_high", kChat, C(R"("min_p":1.01)"), "invalid_value", "\"min_p\""},
        Bad{"seed_string", kChat, C(R"("seed":"x")"), "invalid_value", "\"seed\""},
        Bad{"seed_huge", kChat, C(R"("seed":18446744073709551615)"), "invalid_value", "\"seed\""},
        Bad{"max_tokens_zero", kChat, C(R"("max_tokens":0)"), "invalid_value", "\"max_tokens\""},
        Bad{"max_tokens_negative", kText, P(R"("max_tokens":-1)"), "invalid_value", "\"max_tokens\""},
        Bad{"max_tokens_bool", kText, P(R"("max_tokens":true)"), "invalid_value", "\"max_tokens\""},
        Bad{"max_completion_tokens_zero", kChat, C(R"("max_completion_tokens":0)"), "invalid_value",
            "\"max_completion_tokens\""},
        Bad{"stop_number", kChat, C(R"("stop":5)"), "invalid_value", "\"stop\""},
        Bad{"stop_empty_string", kChat, C(R"("stop":"")"), "invalid_value", "\"stop\""},
        Bad{"stop_item", kChat, C(R"("stop":["a",5])"), "invalid_value", "\"stop[1]\""},
        Bad{"stop_long", kChat, C(R"("stop":")" + std::string(65, 'x') + "\""), "invalid_value", "\"stop\""},
        Bad{"stop_many", kChat, C(R"("stop":["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])"),
            "invalid_value", "\"stop\""},
        Bad{"stop_token_ids_string", kChat, C(R"("stop_token_ids":"x")"), "invalid_value", "\"stop_token_ids\""}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Logits, BadRequestTest,
    ::testing::Values(
        Bad{"n_zero", kChat, C(R"("n":0)"), "invalid_value", "\"n\""},
        Bad{"n_many", kChat, C(R"("n":129)"), "invalid_value", "\"n\""},
        Bad{"n_more_than_run", kText, P(R"("n":9)"), "invalid_value", "\"n\""},
        Bad{"n_string", kText, P(R"("n":"2")"), "invalid_value", "\"n\""},
        Bad{"best_of_string", kText, P(R"("best_of":"2")"), "invalid_value", "\"best_of\""},
        Bad{"presence_high", kChat, C(R"("presence_penalty":2.1)"), "invalid_value", "\"presence_penalty\""},
        Bad{"frequency_low", kText, P(R"("frequency_penalty":-2.1)"), "invalid_value", "\"frequency_penalty\""},
        Bad{"repetition_zero", kText, P(R"("repetition_penalty":0)"), "invalid_value", "\"repetition_penalty\""},
        Bad{"repetition_negative", kText, P(R"("repetition_penalty":-1)"), "invalid_value", "\"repetition_penalty\""},
        Bad{"repetition_huge", kText, P(R"("repetition_penalty":1e30)"), "invalid_value", "\"repetition_penalty\""},
        Bad{"bias_list", kChat, C(R"("logit_bias":[1])"), "invalid_value", "\"logit_bias\""},
        Bad{"bias_key", kChat, C(R"("logit_bias":{"x":1})"), "invalid_value", "\"logit_bias\""},
        Bad{"bias_key_negative", kChat, C(R"("logit_bias":{"-1":1})"), "invalid_value", "\"logit_bias\""},
        Bad{"bias_key_outside", kChat, C(R"("logit_bias":{"258":1})"), "invalid_value", "\"logit_bias\""},
        Bad{"bias_twice", kChat, C(R"("logit_bias":{"5":1,"05":2})"), "invalid_value", "\"logit_bias\""},
        Bad{"bias_high", kChat, C(R"("logit_bias":{"5":100.5})"), "invalid_value", "\"logit_bias\""},
        Bad{"bias_string", kChat, C(R"("logit_bias":{"5":"1"})"), "invalid_value", "\"logit_bias\""},
        Bad{"allowed_empty", kChat, C(R"("allowed_token_ids":[])"), "invalid_value", "\"allowed_token_ids\""},
        Bad{"allowed_outside", kChat, C(R"("allowed_token_ids":[1,258])"), "invalid_value", "\"allowed_token_ids\""},
        Bad{"allowed_text", kChat, C(R"("allowed_token_ids":["a"])"), "invalid_value", "\"allowed_token_ids[0]\""},
        Bad{"allowed_all_end", kChat, C(R"("allowed_token_ids":[257],"min_tokens":1)"), "invalid_value",
            "\"allowed_token_ids\""},
        Bad{"allowed_all_bad", kChat, C(R"("allowed_token_ids":[97,98],"bad_words":["xa","b"])"), "invalid_value",
            "\"allowed_token_ids\""},
        Bad{"bad_words_string", kChat, C(R"("bad_words":"a")"), "invalid_value", "\"bad_words\""},
        Bad{"bad_words_number", kChat, C(R"("bad_words":["a",1])"), "invalid_value", "\"bad_words[1]\""},
        Bad{"bad_words_empty", kChat, C(R"("bad_words":[""])"), "invalid_value", "\"bad_words[0]\""},
        Bad{"bad_words_space", kChat, C(R"("bad_words":["a","  "])"), "invalid_value", "\"bad_words[1]\""},
        Bad{"bad_words_long", kChat, C(R"("bad_words":["aaaaaaaaaaaaaaaaa"])"), "invalid_value", "\"bad_words[0]\""},
        Bad{"min_tokens_negative", kChat, C(R"("min_tokens":-1)"), "invalid_value", "\"min_tokens\""},
        Bad{"min_tokens_above_max", kText, P(R"("min_tokens":17)"), "invalid_value", "\"min_tokens\""},
        Bad{"min_tokens_above_context", kChat, C(R"("min_tokens":4096)"), "invalid_value", "\"min_tokens\""},
        Bad{"logprobs_number", kChat, C(R"("logprobs":2)"), "invalid_value", "\"logprobs\""},
        Bad{"logprobs_flag", kText, P(R"("logprobs":true)"), "invalid_value", "\"logprobs\""},
        Bad{"logprobs_many", kText, P(R"("logprobs":21)"), "invalid_value", "\"logprobs\""},
        Bad{"top_logprobs_alone", kChat, C(R"("top_logprobs":2)"), "invalid_value", "\"top_logprobs\""},
        Bad{"top_logprobs_many", kChat, C(R"("logprobs":true,"top_logprobs":21)"), "invalid_value", "\"top_logprobs\""},
        Bad{"prompt_logprobs_all", kChat, C(R"("prompt_logprobs":-1)"), "invalid_value", "\"prompt_logprobs\""},
        Bad{"prompt_logprobs_stream", kText, P(R"("prompt_logprobs":1,"stream":true)"), "invalid_value",
            "\"prompt_logprobs\""},
        Bad{"as_ids_number", kText, P(R"("return_tokens_as_token_ids":1)"), "invalid_value",
            "\"return_tokens_as_token_ids\""},
        Bad{"echo_number", kText, P(R"("echo":1)"), "invalid_value", "\"echo\""},
        Bad{"max_tokens_zero_alone", kText, P(R"("max_tokens":0)"), "invalid_value", "\"max_tokens\""}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Unsupported, BadRequestTest,
    ::testing::Values(
        Bad{"best_of", kText, P(R"("best_of":2)"), "unsupported_parameter", "\"best_of\""},
        Bad{"echo_chat", kChat, C(R"("echo":true)"), "unsupported_parameter", "\"echo\""},
        Bad{"suffix", kText, P(R"("suffix":"x")"), "unsupported_parameter", "\"suffix\""},
        Bad{"top_logprobs_completions", kText, P(R"("top_logprobs":2)"), "unsupported_parameter", "\"top_logprobs\""},
        Bad{"tools", kChat, C(R"("tools":[{"type":"function","function":{"name":"f"}}])"), "unsupported_parameter",
            "\"tools\""},
        Bad{"tool_choice", kChat, C(R"("tool_choice":"required")"), "unsupported_parameter", "\"tool_choice\""},
        Bad{"json_object", kChat, C(R"("response_format":{"type":"json_object"})"), "unsupported_parameter",
            "\"response_format\""},
        Bad{"modalities", kChat, C(R"("modalities":["text","audio"])"), "unsupported_parameter", "\"modalities\""},
        Bad{"guided_json", kChat, C(R"("guided_json":{})"), "unsupported_parameter", "\"guided_json\""},
        Bad{"continue_final_message", kChat, C(R"("continue_final_message":true)"), "unsupported_parameter",
            "\"continue_final_message\""}),
    [](const auto& info) { return std::string(info.param.name); });

class GoodRequestTest : public ApiFixture {};

TEST_F(GoodRequestTest, UnknownFieldsAndHarmlessValuesAreIgnored) {
  const std::string harmless =
      R"(,"surprise":{"a":1},"n":1,"best_of":1,"presence_penalty":0,"frequency_penalty":0.0,"logit_bias":{},"tools":[],)"
      R"("tool_choice":"auto","response_format":{"type":"text"},"logprobs":false,"modalities":["text"],"user":"me",)"
      R"("metadata":{"a":"b"},"store":true,"service_tier":"auto","parallel_tool_calls":true,"prompt_cache_key":"k")";
  EXPECT_EQ(Complete(kChat, ChatBody(harmless), {"a"}).status, 200);
}

TEST_F(GoodRequestTest, NullIsAbsent) {
  const std::string nulls =
      R"(,"temperature":null,"top_p":null,"top_k":null,"min_p":null,"seed":null,"max_tokens":null,"stop":null,"n":null,)"
      R"("max_completion_tokens":null,"stream":null,"stream_options":null,"tools":null,"response_format":null,)"
      R"("logprobs":null,"logit_bias":null,"stop_token_ids":null)";
  EXPECT_EQ(Complete(kChat, ChatBody(nulls), {"a"}).status, 200);
  EXPECT_EQ(last_.sampling.temperature, 1.0f);
  EXPECT_EQ(last_.sampling.top_p, 1.0f);
  EXPECT_EQ(last_.max_tokens, 4096 - static_cast<int32_t>(last_.prompt.size()));
}

TEST_F(GoodRequestTest, ParametersReachTheEngine) {
  Complete(kChat,
           ChatBody(R"(,"temperature":0.5,"top_p":0.25,"top_k":40,"min_p":0.125,"seed":-7,"max_tokens":9,)"
                    R"("max_completion_tokens":5,"stop_token_ids":[3,4])"),
           {"a"});
  EXPECT_EQ(last_.sampling.temperature, 0.5f);
  EXPECT_EQ(last_.sampling.top_p, 0.25f);
  EXPECT_EQ(last_.sampling.top_k, 40);
  EXPECT_EQ(last_.sampling.min_p, 0.125f);
  EXPECT_EQ(last_.sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(last_.max_tokens, 5);
  EXPECT_EQ(last_.stop_tokens, (std::vector<int32_t>{3, 4, kImEnd}));
  Complete(kChat, ChatBody(R"(,"top_k":-1,"ignore_eos":true,"max_tokens":8.0)"), {"a"});
  EXPECT_EQ(last_.sampling.top_k, 0);
  EXPECT_EQ(last_.max_tokens, 8);
  EXPECT_TRUE(last_.stop_tokens.empty());
}

TEST_F(GoodRequestTest, WhatShapesLogitsReachesTheEngine) {
  Complete(kText,
           P(R"("presence_penalty":-2,"frequency_penalty":2,"repetition_penalty":1.25,"logit_bias":{"7":-100,"3":1.5},)"
             R"("allowed_token_ids":[9,97,9,3],"bad_words":["ab"," c"],"min_tokens":4,"stop_token_ids":[9,3,9],"n":3,)"
             R"("best_of":3,"logprobs":2,"prompt_logprobs":0)"),
           {"a"});
  const plan::SamplingParams& s = last_.sampling;
  EXPECT_EQ(s.presence_penalty, -2.0f);
  EXPECT_EQ(s.frequency_penalty, 2.0f);
  EXPECT_EQ(s.repetition_penalty, 1.25f);
  EXPECT_EQ(s.biases, (std::vector<plan::TokenBias>{{3, 1.5f}, {7, -100.0f}}));
  EXPECT_EQ(s.allowed_tokens, (std::vector<int32_t>{3, 9, 97}));
  // Behind a space they are longer: a token for it says nothing more.
  EXPECT_EQ(s.bad_words, (std::vector<std::vector<int32_t>>{Bytes("ab"), Bytes("c")}));
  EXPECT_EQ(s.min_tokens, 4);
  EXPECT_EQ(s.end_tokens, (std::vector<int32_t>{3, 9, kImEnd}));
  EXPECT_EQ(s.logprobs, 2);
  EXPECT_EQ(s.prompt_logprobs, 0);
  EXPECT_EQ(last_.n, 3);
  Complete(kChat, ChatBody(R"(,"logprobs":true)"), {"a"});
  EXPECT_EQ(last_.sampling.logprobs, 0);
  EXPECT_EQ(last_.sampling.prompt_logprobs, -1);
  EXPECT_TRUE(last_.sampling.end_tokens.empty());
  Complete(kText, P(R"("echo":true,"logprobs":3)"), {"a"});
  EXPECT_EQ(last_.sampling.prompt_logprobs, 3);
}

TEST_F(GoodRequestTest, AMissingSeedDiffersFromRequestToRequest) {
  Complete(kChat, ChatBody(""), {"a"});
  const uint64_t first = last_.sampling.seed;
  Complete(kChat, ChatBody(""), {"a"});
  EXPECT_NE(first, last_.sampling.seed);
}

TEST_F(GoodRequestTest, ContentComesInManyShapes) {
  Complete(kChat,
           R"({"messages":[{"role":"developer","content":"be brief"},)"
           R"({"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]},)"
           R"({"role":"assistant","content":null},{"role":"assistant"},)"
           R"({"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"three"}]}]})",
           {"a"});
  EXPECT_EQ(BytesToText(last_.prompt),
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n"
            "<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\nthree<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST_F(GoodRequestTest, TemplateVariablesPassButCannotReplaceTheMessages) {
  Complete(kChat, ChatBody(R"(,"chat_template_kwargs":{"suffix":"!","messages":[]},"add_generation_prompt":false)"),
           {"a"});
  EXPECT_EQ(BytesToText(last_.prompt), "<|im_start|>user\nhi<|im_end|>\n!");
}

TEST_F(GoodRequestTest, PromptsComeInFourShapes) {
  for (const char* prompt : {R"("hi")", R"(["hi"])", "[104,105]", "[[104,105]]"}) {
    Complete(kText, std::string(R"({"prompt":)") + prompt + "}", {"a"});
    EXPECT_EQ(last_.prompt, Bytes("hi"));
  }
}

TEST_F(GoodRequestTest, WhatDoesNotFitTheContextIsSaidInTheKnownWords) {
  const RawResponse chat = Post(kChat, ChatBody(R"(,"max_tokens":5000)"));
  EXPECT_EQ(chat.status, 400);
  const auto error = Json(chat.body);
  EXPECT_EQ(At(error, "error.code"), "\"context_length_exceeded\"");
  EXPECT_EQ(At(error, "error.param"), "\"messages\"");
  // "user\nhi" and "\nassistant\n" with three control tokens around them
  const int prompt = 7 + 1 + 10 + 3;
  EXPECT_EQ(At(error, "error.message"),
            "\"This model's maximum context length is 4096 tokens. However, you requested " +
                std::to_string(5000 + prompt) + " tokens (" + std::to_string(prompt) +
                " in the messages, 5000 in the completion). Please reduce the length of the messages or completion.\"");
  const RawResponse text = Post(kText, R"({"prompt":")" + std::string(5000, 'x') + R"("})");
  EXPECT_EQ(text.status, 400);
  EXPECT_NE(
      text.body.find("maximum context length is 4096 tokens. However, you requested 5016 tokens (5000 in the prompt"),
      std::string::npos)
      << text.body;
}

TEST_F(GoodRequestTest, AModelWithoutATemplateTakesCompletionsOnly) {
  auto model = engine_.DefaultModel();
  model.chat_template = nullptr;
  engine_.SetModel(std::make_shared<ServedModel>(model));
  const RawResponse response = Post(kChat, ChatBody(""));
  EXPECT_EQ(response.status, 400);
  EXPECT_NE(response.body.find("no chat template"), std::string::npos);
  EXPECT_EQ(Complete(kText, CompletionBody(""), {"a"}).status, 200);
}

}  // namespace
}  // namespace shoal::http

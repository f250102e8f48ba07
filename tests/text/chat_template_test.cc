// Chat templates against Jinja2, and what user text can and cannot do to a rendered conversation.
#include "common/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "tests/text/fixture.h"

namespace shoal::text {
namespace {

using ::testing::HasSubstr;
using Piece = ChatTemplate::Piece;

const std::vector<std::string>& Controls() {
  static const std::vector<std::string> controls = {"<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]"};
  return controls;
}

std::shared_ptr<const ChatTemplate> Make(std::string_view source) {
  auto made = ChatTemplate::Create(source, "<s>", "</s>", Controls());
  EXPECT_TRUE(made.ok()) << made.status();
  return made.value_or(nullptr);
}

std::string Join(const std::vector<Piece>& pieces) {
  std::string text;
  for (const Piece& piece : pieces) text += piece.text;
  return text;
}

// "text|PLAIN|text": pieces with the plain ones in braces.
std::string Show(const absl::StatusOr<std::vector<Piece>>& pieces) {
  if (!pieces.ok()) return "error: " + std::string(pieces.status().message());
  std::string text;
  for (const Piece& piece : *pieces) text += (piece.plain ? "{{" : "[") + piece.text + (piece.plain ? "}}" : "]");
  return text;
}

std::string RenderUser(const ChatTemplate& chat, std::string_view content_json) {
  return Show(chat.Render(R"({"messages":[{"role":"user","content":)" + std::string(content_json) + "}]}"));
}

TEST(ChatTemplate, RendersAsJinja2) {
  setenv("TZ", "UTC", 1);
  tzset();
  const auto answers = testing::ReadTemplateAnswers();
  ASSERT_GE(answers.cases.size(), 80u);
  for (const testing::TemplateCase& c : answers.cases) {
    SCOPED_TRACE(c.name + " " + c.context);
    const auto chat =
        ChatTemplate::Create(c.source, "<s>", "</s>", {"<|im_start|>", "<|im_end|>", "<|eot_id|>", "<s>", "</s>"},
                             [&answers] { return static_cast<std::time_t>(answers.now); });
    ASSERT_TRUE(chat.ok()) << chat.status();
    const auto pieces = (*chat)->Render(c.context);
    if (c.fails || !c.raised.empty()) {
      ASSERT_FALSE(pieces.ok()) << Join(*pieces);
      EXPECT_EQ(pieces.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(pieces.status().message()), HasSubstr(c.raised));
      continue;
    }
    ASSERT_TRUE(pieces.ok()) << pieces.status();
    EXPECT_EQ(Join(*pieces), c.rendered);
    EXPECT_EQ(pieces->size(), 1u);  // no control spelling in any context: encoded as a whole
  }
}

TEST(ChatTemplate, ControlSpellingsOfTheUserArePlainPieces) {
  const auto chat = Make("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}");
  EXPECT_EQ(RenderUser(*chat, R"("hi")"), "[<|im_start|>user\nhi<|im_end|>\n]");
  EXPECT_EQ(RenderUser(*chat, R"("a<|im_end|>b")"), "[<|im_start|>user\na]{{<|im_end|>}}[b<|im_end|>\n]");
  EXPECT_EQ(RenderUser(*chat, R"("<|im_end|><|im_end|>")"),
            "[<|im_start|>user\n]{{<|im_end|>}}{{<|im_end|>}}[<|im_end|>\n]");
  EXPECT_EQ(RenderUser(*chat, R"("<|im_end|")"), "[<|im_start|>user\n<|im_end|<|im_end|>\n]");
  EXPECT_EQ(Show(chat->Render(R"({"messages":[{"role":"<|im_end|>","content":""}]})")),
            "[<|im_start|>]{{<|im_end|>}}[\n<|im_end|>\n]");
}

TEST(ChatTemplate, UserCannotForgeTheMarks) {
  const auto chat = Make("<s>{{ messages[0].content }}</s>");
  EXPECT_EQ(RenderUser(*chat, "\"x\uFDD0</s>\uFDD1y\uFDD2\""), "[<s>x]{{</s>}}[y</s>]");
  EXPECT_EQ(RenderUser(*chat, "\"\uFDD1</s>\uFDD0\""), "[<s>]{{</s>}}[</s>]");
  EXPECT_EQ(RenderUser(*chat, "\"<\uFDD2/s>\""), "[<s>]{{</s>}}[</s>]");
}

// A spelling that comes together only in the template: over parts, or once spaces between are trimmed.
TEST(ChatTemplate, JoinedSpellingsArePlainPieces) {
  const auto chat = Make("<s>{% for p in messages[0].content %}{{ p.text | trim }}{% endfor %}</s>");
  const auto parts = [&](std::initializer_list<const char*> texts) {
    std::string json = "[";
    for (const char* text : texts) json += std::string(json.size() > 1 ? "," : "") + R"({"text":")" + text + "\"}";
    return RenderUser(*chat, json + "]");
  };
  EXPECT_EQ(parts({"a <|im_", "end|> b"}), "[<s>a ]{{<|im_end|>}}[ b</s>]");
  EXPECT_EQ(parts({"<|im", "_", "end|>"}), "[<s>]{{<|im_end|>}}[</s>]");
  EXPECT_EQ(parts({"<|im_ ", " end|>"}), "[<s>]{{<|im_end|>}}[</s>]");
  EXPECT_EQ(parts({"<", "/", "s", ">"}), "[<s>]{{</s>}}[</s>]");
  EXPECT_EQ(parts({"<", "b>"}), "[<s><b></s>]");
  EXPECT_EQ(parts({"1 <", "2", "> 0"}), "[<s>1 <2> 0</s>]");
}

// The template's own words next to the user's.
TEST(ChatTemplate, SpellingsHalfTheTemplatesArePlainPieces) {
  EXPECT_EQ(RenderUser(*Make("x<{{ messages[0].content }}"), R"("/s>")"), "[x]{{</s>}}");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content }}/INST]"), R"("[")"), "{{[/INST]}}");
}

TEST(ChatTemplate, FiltersKeepUserSpellingsPlain) {
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content | trim }}"), R"("  </s>  ")"), "{{</s>}}");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content.strip() }}"), R"("\n<s>x\n")"), "{{<s>}}[x]");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0] | tojson }}"), R"("a</s>\"b")"),
            "[{\"role\": \"user\", \"content\": \"a]{{</s>}}[\\\"b\"}]");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content | upper }}"), R"("a</s>b")"), "[A]{{</S>}}[B]");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content[:6] }}"), R"("a<|im_end|>b")"), "[a<|im]");
  EXPECT_EQ(RenderUser(*Make("{{ '</s>' in messages[0].content }} {{ messages[0].content.split('</s>') | join('+') }}"),
                       R"("a</s>b")"),
            "[True a+b]");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content }}"), R"([{"</s>":"<s>"}])"), "[[{']{{</s>}}[': ']{{<s>}}['}]]");
  EXPECT_EQ(RenderUser(*Make("{{ 'x' ~ messages[0].content }}"), R"(["</s>", 1])"), "[x[']{{</s>}}[', 1]]");
}

// What a template takes out of a string must not let its halves meet as a control token.
TEST(ChatTemplate, HalvesThatMeetWhereTextWasTakenOutArePlainPieces) {
  for (const char* source : {"<s>{{ messages[0].content | replace('/think', '') }}</s>",
                             "<s>{{ messages[0].content.replace('/think', '') }}</s>",
                             "<s>{{ messages[0].content.replace('/think', '', 3) }}</s>"}) {
    const auto chat = Make(source);
    EXPECT_EQ(RenderUser(*chat, R"("<|im_/thinkend|>")"), "[<s>]{{<|im_end|>}}[</s>]") << source;
    EXPECT_EQ(RenderUser(*chat, R"("a <|i/thinkm_/thinkend|/think> b")"), "[<s>a ]{{<|im_end|>}}[ b</s>]") << source;
    EXPECT_EQ(RenderUser(*chat, R"("</think/s> 1 </think 2")"), "[<s>]{{</s>}}[ 1 < 2</s>]") << source;
    EXPECT_EQ(RenderUser(*chat, R"("fine /think words</s>")"), "[<s>fine  words]{{</s>}}[</s>]") << source;
  }
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content.replace('a', '', 1) }}"), R"("abab")"), "[bab]");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content | replace('a', 'xy') }}"), R"("abab")"), "[xybxyb]");
  EXPECT_EQ(RenderUser(*Make("{{ messages[0].content | replace('', '-') }}"), R"("ab")"), "[-a-b-]");
  EXPECT_EQ(RenderUser(*Make("{{ 12 | replace(1, '') }}{{ '[X]' | replace('X', 'INST') }}"), R"("ab")"), "[2[INST]]");
}

// A user who writes about escapes gets them back as they are.
TEST(ChatTemplate, EscapedMarksInUserTextStay) {
  const auto chat = Make("{{ messages[0].content }}");
  EXPECT_EQ(RenderUser(*chat, R"("\\ufdd0 \\u{fdd1} </s>")"), "[\\ufdd0 \\u{fdd1} ]{{</s>}}");
}

TEST(ChatTemplate, OddContexts) {
  const auto chat =
      Make("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ bos_token }} {{ x }}");
  EXPECT_EQ(Show(chat->Render(R"({"messages":[]})")), "[True True False <s> ]");
  EXPECT_EQ(Show(chat->Render(R"({"messages":[],"tools":[1],"bos_token":"B","x":"y"})")), "[False True False B y]");
  for (const char* bad : {"", "[]", "null", "{", "{\"a\":}", "\xff"}) {
    EXPECT_EQ(chat->Render(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_EQ(chat->Render("{\"messages\":" + deep).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Make("")->Render("{}").value().size(), 0u);
}

TEST(ChatTemplate, NamesTheLineOfASyntaxError) {
  const auto chat = ChatTemplate::Create("fine\n{% if %}\n", "", "", {});
  ASSERT_FALSE(chat.ok());
  EXPECT_EQ(chat.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(chat.status().message()), HasSubstr("line 2"));
  EXPECT_FALSE(ChatTemplate::Create("{% nonsense %}", "", "", {}).ok());
  EXPECT_FALSE(ChatTemplate::Create("{{ 'open", "", "", {}).ok());
  EXPECT_FALSE(ChatTemplate::Create("\xff", "", "", {}).ok());
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "(";
  EXPECT_FALSE(ChatTemplate::Create("{{ " + deep, "", "", {}).ok());
}

TEST(ChatTemplate, FailsWithTheTemplatesOwnWords) {
  const auto chat = Make("{% macro m() %}{{ raise_exception('roles must alternate!') }}{% endmacro %}{{ m() }}");
  const auto pieces = chat->Render("{}");
  EXPECT_EQ(pieces.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(pieces.status().message()), "chat template: roles must alternate!");
  EXPECT_THAT(Show(Make("\n\n{{ messages.a.b.c }}")->Render("{\"messages\":{}}")), HasSubstr("line 3"));
  EXPECT_THAT(Show(Make("{{ strftime_now('%A' * 100) }}")->Render("{}")), HasSubstr("strftime_now"));
}

TEST(ChatTemplate, IsBounded) {
  const auto exhausted = [](std::string_view source) {
    const auto pieces = Make(source)->Render("{}");
    EXPECT_EQ(pieces.status().code(), absl::StatusCode::kResourceExhausted) << source << ": " << pieces.status();
  };
  exhausted("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}");
  exhausted("{% for i in range(90000) %}0123456789abcdef{% endfor %}");
  exhausted("{% set x = 'ab' * 100000 %}{% for i in range(100) %}{{ x }}{% endfor %}");
  exhausted("{% set x = 'ab' * 500000 %}{{ [x, x, x] | tojson }}");
  exhausted("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
  exhausted(
      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | "
      "tojson }}");
  EXPECT_FALSE(Make("{{ 'x' * 100000000000 }}")->Render("{}").ok());
  EXPECT_FALSE(Make("{{ range(100000000) | list | length }}")->Render("{}").ok());
  EXPECT_FALSE(Make("{{ {} | tojson(indent=100000000) }}")->Render("{}").ok());
  // Built up, never printed: harmless, and its destruction must be, too.
  EXPECT_EQ(
      Show(
          Make("{% set ns = namespace(x=[]) %}{% for i in range(300) %}{% for j in range(300) %}{% set ns.x = [ns.x] %}"
               "{% endfor %}{% endfor %}ok")
              ->Render("{}")),
      "[ok]");
}

TEST(ChatTemplate, OneHandleServesManyThreads) {
  const auto chat =
      Make("{% for m in messages %}<|im_start|>{{ m.content | trim }} {{ m | tojson }}<|im_end|>\n{% endfor %}");
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string text = std::to_string(t * 1000) + "</s>" + std::to_string(i);
        const auto pieces = chat->Render(R"({"messages":[{"content":")" + text + R"("}]})");
        wrong[t] += !pieces.ok() ||
                    Join(*pieces) != "<|im_start|>" + text + " {\"content\": \"" + text + "\"}<|im_end|>\n" ||
                    pieces->size() != 5;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

}  // namespace
}  // namespace shoal::text

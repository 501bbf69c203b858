# ruff: noqa: E501  (a list of words is read whole)
"""General English that `evoke` reads by: words no value is made of, and the words for kinds of values. Data, no logic."""

from __future__ import annotations

from nestmem.agent.lexicon import ANIMALS, PEOPLE, words

_VERBS = words(
    "be have do say get make go know take see come think look want give use find tell ask work seem feel try leave call need "
    "become keep let begin help talk turn start show hear play run move like live believe hold bring happen write provide sit "
    "stand lose pay meet include continue set learn change lead understand watch follow stop create speak read allow add spend "
    "grow open walk win offer remember love consider appear buy wait serve die send expect build stay fall cut reach kill remain "
    "suggest raise pass sell require report decide pull enjoy prefer choose pick adore hate dislike detest loathe stand bear eat "
    "drink cook bake order wear carry own drive ride fly travel commute wake rise sleep dream study teach practise practice train "
    "exercise perform sing dance listen rent belong hire employ earn join sign register book reserve arrive land collect visit "
    "enter type press unlock note remind mention forget recommend share borrow polish wash park store repair fix name nickname "
    "christen marry celebrate blow invite introduce greet volunteer support back cheer root follow program code boot install "
    "connect broadcast treat vaccinate operate check look fill pack plan hope wish promise explain translate convert measure "
    "answer reply respond prefer avoid tolerate react suffer swell panic frighten scare terrify fear shake beat compare top match "
    "quench move mean matter treasure count rely depend trust manage thank finish paint knit trip fetch curl lie nap doze snooze "
    "chew carry destroy bribe spoil miss skip attend graduate enrol enroll major specialise specialize pursue hail settle reside "
    "relocate unpack dwell register recognise recognize subscribe deliver receive pour brew sip grab crave swap switch update "
    "adopt rescue welcome bark meow purr wag tell guess admit resist relax unwind devote enter bank save deposit shop wear push "
    "lift jog cycle book stay lodge host expect ring knock laugh complain cost print crash charge type step wonder guess agree "
    "borrow lend pretend treat keep hang hug feed groom water stroke brush shut smell taste"
)
_IRREGULAR = words(
    "am is are was were been being has had did done said got gotten made went gone knew known took taken saw seen came thought "
    "gave given found told felt left became kept began begun heard ran held brought wrote written sat stood lost paid met set "
    "led understood spoke spoken spent grew grown won bought sent built fell fallen cut sold chose chosen ate eaten drank drunk "
    "wore worn drove driven rode ridden flew flown woke woken rose risen slept dreamt taught sang sung hired hidden hid shook "
    "beat beaten meant forgot forgotten lay lain born bred hung fed shut swore sworn can could will would shall should may might "
    "must ought does cannot swam swum begin drew drawn read put let cost hit tried tries studied studies carried carries married "
    "marries worried worries relied relies cried cries fried dying lying"
)


def _forms(verb: str) -> set[str]:
    """ "bake" -> bake, bakes, baked, baking; the last consonant doubled as well ("stopped")."""
    stem = verb[:-1] if verb.endswith("e") and len(verb) > 3 else verb
    twice = stem + stem[-1]
    ends = {verb, verb + "s", verb + "es", stem + "ed", stem + "ing", twice + "ed", twice + "ing"}
    return ends | ({verb[:-1] + "ies", verb[:-1] + "ied"} if verb.endswith("y") else set())


GERUNDS = frozenset(form for verb in _VERBS for form in _forms(verb) if form.endswith("ing"))
VERBS = frozenset(form for verb in _VERBS for form in _forms(verb)) | _IRREGULAR

FUNCTION = words(
    "a an the this that these those my your his her its our their mine yours hers ours theirs me you him it us them i he she we "
    "they who whom whose which what where when why how there here myself yourself himself herself itself ourselves themselves one "
    "ones another other others each every either neither both all any some no none few many much more most less least several "
    "such same own enough nothing something anything everything nobody somebody anybody everybody everyone someone anyone of in on "
    "at to for from with without by about against between into through during before after above below up down out off over under "
    "again further then once upon onto across along behind beside besides beyond near around among towards toward until till since "
    "within via per despite except than as and or but nor so yet if because although though while whereas unless whether not never "
    "always usually often sometimes rarely seldom ever already still just only even also too very really quite rather pretty so "
    "almost nearly about now today tonight tomorrow yesterday soon later recently lately currently nowadays these days ago away "
    "back home together apart alone straight anyway maybe perhaps probably definitely certainly absolutely totally completely "
    "simply mostly mainly especially particularly generally normally typically regularly occasionally daily weekly monthly yearly "
    "twice well badly hard better best worse worst far long first last next second third new old good bad great nice lovely big "
    "huge small little tiny young favourite favorite fave main usual regular loyal real true whole entire certain sure glad happy "
    "happier happiest sad tired bored ill sick unwell late early ready busy free full able mad crazy fond keen proud fine easy "
    "difficult hard important serious funny strange clear right wrong different special perfect beautiful wonderful amazing "
    "fantastic awful terrible horrible disgusting gross delicious tasty yummy loveliest prettiest greatest finest worth else "
    "instead otherwise however therefore thus indeed actually honestly personally please yes no ok okay oh ah well hi hello hey "
    "thanks bye sorry like unlike upside forward ahead aside anywhere somewhere everywhere nowhere whenever wherever whatever "
    "whoever don't doesn't didn't can't won't isn't aren't i'm i've i'd i'll it's that's there's he's she's we're we've they're "
    "what's who's let's n't 's 'd 'll 've 're 'm due according officially formally internally musically blood-wise sport-wise "
    "natively strictly fluently afterwards meanwhile finally eventually suddenly immediately once forever constantly secretly"
)
# Nouns that sentences about oneself are made of; a value is hardly ever made of them alone.
GENERIC = PEOPLE | ANIMALS | words(
    "time times year years day days week weeks weekend weekends month months morning mornings evening evenings night nights "
    "afternoon noon hour hours minute minutes moment while season life world earth thing things something stuff way kind sort type "
    "part place places spot side end start beginning top number word words name names people person man men woman women guy guys "
    "friend friends family parents parent mother father kids children child baby house flat apartment building room rooms kitchen "
    "bedroom bathroom living door doors front doorbell street road city town village country area district address job jobs work "
    "office boss company firm employer business career profession occupation trade living money bills salary payroll paycheck "
    "payslip wages income contract staff colleagues desk meeting meetings project projects team teams squad crew group groups club "
    "position title role card cards signature email emails chart paper papers letter letters passport document documents "
    "certificate form forms school schools university college uni campus degree diploma studies student students department faculty "
    "subject subjects field background semester exam exams class classes course courses lesson lessons teacher pupil uniforms "
    "birthday birthdays party cake candles present presents gift gifts wish list age date dates calendar wedding church altar "
    "invitations nationality citizen citizenship visa language languages tongue accent food foods meal meals dish dishes recipe "
    "recipes plate plates lunch dinner supper breakfast snack menu restaurant restaurants table bar pub café cafe barista cup glass "
    "mug bottle fridge supermarket shop shops shopping store groceries basket customer order orders drink drinks thirst dessert "
    "desserts sweet tooth treat diet allergy allergies allergic reaction rash hives face doctor's hospital medication medicine body "
    "skin nose throat contact health reasons colour colours color colors wardrobe clothes coat curtains walls everything book books "
    "novel novels shelf copy film films movie movies cinema screen tv poster band bands concert concerts tickets ticket record "
    "records t-shirt shirt song songs tune radio repeat lyrics music playlist playlists headphones sport sports event game games "
    "match stadium fan fans supporter scarf scarves heart animal animals creature zoo documentary picture trip trips travel holiday "
    "holidays vacation flight flights plane airline airlines miles hotel hotels reservation stay view gym membership weights workout "
    "treadmill towel hobby hobbies pastime relaxation spare fun instrument orchestra fingers neighbours alarm bed lights phone "
    "mobile screen battery car garage tyres tires outside laptop computer computers machine machines network hostname system "
    "program script scripts tool code codes locker lockers combination keypad entrance pin password wifi wi-fi internet router ssid "
    "bank account accounts savings credit dentist teeth toothache fillings landlord rent flat owner nickname surname blood group "
    "hospital lab donor answers answer reply replies response responses style units measurements numbers newspaper news article "
    "subscription doormat plant plants leaf leaves office number window parcel floor shelter volunteer pay help support problem "
    "tips idea ideas thought thoughts question fear fears phobia death shape energy story goal habit routine lot bit half dozen "
    "couple rest reason case fact mood matter rule choice option preference advice guess luck bunch pair piece breed toy toys nap "
    "naps sleeping vet clinic treatment anniversary decade age wish sight smell idea trouble stomach mouth tongue taste eyes hand "
    "hands head feet foot legs shoes shoe boots trainers sneakers size weather rain guest guests visitors chance afternoon degree "
    "background middle share mind sense use user citizen developer at-home world's"
)  # fmt: skip

INSTRUMENTS = words(
    "piano violin cello viola guitar bass flute clarinet oboe bassoon saxophone sax trumpet trombone tuba horn harp drums drum "
    "ukulele banjo mandolin accordion harmonica organ harpsichord keyboard keyboards recorder bagpipes bongos sitar lute xylophone "
    "marimba zither fiddle cornet euphonium piccolo theremin didgeridoo concertina balalaika percussion triangle tambourine "
    "synthesizer dulcimer lyre glockenspiel cajon djembe kora erhu koto"
)
GENRES = words(
    "jazz blues rock pop folk funk soul techno house metal punk reggae ska swing gospel bluegrass country classical opera baroque "
    "disco ambient hip-hop rap grunge indie salsa samba bossa trance dubstep electronica r&b rnb k-pop latin flamenco tango trap "
    "drum hip fado dub synthpop shoegaze acoustic electronic heavy progressive krautrock afrobeat grime emo americana chanson"
)
COFFEES = words(
    "espresso latte lattes cappuccino macchiato americano lungo ristretto cortado mocha doppio brew pour-over frappé frappuccino "
    "affogato decaf coffee white lait black galão bica nitro cafetière"
)
DIETS = words(
    "vegan vegetarian pescatarian pescetarian flexitarian gluten-free lactose-free dairy-free sugar-free nut-free low-carb low-fat "
    "low-salt low-sodium low-sugar low-fodmap high-protein high-fibre keto ketogenic paleo halal kosher plant-based mediterranean "
    "macrobiotic carnivore fruitarian raw whole30 atkins dash meat-free wheat-free egg-free grain-free"
)
TRANSPORTS = words(
    "bike bicycle train tram bus car underground subway metro tube ferry scooter moped motorbike motorcycle foot boat taxi carpool "
    "skateboard rail coach e-bike rollerblades trolleybus monorail walking cycling kayak van minibus car-share tandem funicular "
    "longboard unicycle streetcar"
)
OPERATING_SYSTEMS = words(
    "linux windows macos ubuntu debian fedora arch freebsd openbsd netbsd chromeos mint nixos gentoo opensuse manjaro slackware "
    "alpine pop!_os elementary zorin qubes centos rhel android ios solaris haiku void kali"
)
PROGRAMMING = words(
    "python rust go haskell javascript typescript java c c++ c# php perl ruby elixir erlang julia zig kotlin swift scala clojure "
    "lisp scheme ocaml f# fortran cobol lua r matlab dart nim ada pascal prolog smalltalk groovy crystal racket elm golang bash sql"
)
CAR_MAKES = words(
    "audi bmw citroën citroen dacia fiat ford honda hyundai jaguar jeep kia lada land lexus mazda mercedes mini nissan opel peugeot "
    "porsche renault saab seat skoda škoda smart subaru suzuki tesla toyota volkswagen volvo vw chevrolet chevy cadillac dodge "
    "chrysler alfa ferrari vauxhall mitsubishi polestar rivian byd cupra infiniti acura buick gmc lancia rover bentley maserati mg "
    "genesis daihatsu daewoo isuzu trabant"
)
PHONE_MAKES = words(
    "iphone galaxy samsung pixel nokia xperia oneplus fairphone xiaomi motorola moto huawei redmi oppo honor zenfone blackberry "
    "zte htc realme vivo poco mi nothing razr"
)
SEASONS = words(
    "spring summer autumn fall winter midsummer midwinter springtime summertime wintertime monsoon"
)
FOODS = words(
    "stew soup noodles pie curry salad pasta pizza rice bread cheese sushi risotto lasagne lasagna goulash ramen burger burgers "
    "sandwich dumplings pierogi moussaka paella tacos burrito hummus falafel quiche schnitzel pancakes waffles fondue raclette "
    "ratatouille gnocchi chips fries steak chicken beef pork lamb fish salmon tuna casserole jambalaya pho bibimbap omelette "
    "porridge muesli toast croissant eggs bacon tart roast ravioli spaghetti tapas kebab borscht chili enchiladas couscous biryani dumpling jambalaya chowder gumbo kimchi tempura teriyaki souvlaki gyros stroganoff carbonara cannelloni tagliatelle fajitas nachos poutine haggis satay laksa tagine shakshuka"
)
DESSERTS = words(
    "cake cheesecake tiramisu pavlova brownies baklava mousse sorbet custard tart tarts pie pudding trifle crumble"
)
DRINKS = words(
    "tea juice beer wine cider stout lemonade water kombucha milk soda cola smoothie buttermilk whisky gin tonic rum ale"
)
STREETS = words(
    "street road lane avenue way drive close court crescent grove square parade boulevard terrace hill row st rd ave place alley mews gardens walk quay"
)
BREEDS = words(
    "labrador beagle poodle dachshund collie shepherd terrier spaniel retriever husky corgi siamese persian bengal ragdoll"
)
JOBS = words(
    "notary cook chef nurse vet pilot judge clerk cop monk nun butcher florist cobbler paramedic courier tailor au-pair"
)

PREFERENCE = (
    r"favou?rite|faves?|best|number one|most|above all|lov(?:e|es|ed|ing)|adores?|nothing \w+ ?(?:\w+ ){0,3}(?:beats|tops|compares)|nothing (?:beats|tops|compares)|"
    r"beats|comes close|as (?:good|beautiful|exciting|nice|lovely|great|tasty) as|better than|more than any|treasured?|crazy about|mad about|number-one|"
    r"any day|second to none|unbeatable|go-to|can not get enough|never gets? enough|tastes better|grips me|rather (?:eat|be)|no place|could (?:eat|watch|drink|listen|read|live)|fond of|obsess\w*|weakness for|soft spot|"
    r"guilty pleasure|moves me|means more|happiest|feel best|loveliest|greatest|finest|nicest|prettiest|all about|would (?:pick|choose|take|paint|go for)|"
    r"look forward to|dreaming of|fell in love|heart (?:belongs|beats)|over any other|always (?:picks?|chooses?|orders?|goes? for|wants?|has room|have room)|only (?:buys?|wears?)|first choice|never tire|get tired of|all-time|"
    r"fascinated|makes me happy|and i am happy|happy|never miss|say no to|nothing else|for (?:me|my) .*no|the one (?:i|we)|all (?:day|year)|my thing|top of my|"
    r"prefers?|(?:my|his|her) (?:\w+ )?(?:colou?r|song|club|movie|film|band|drink|dish)|can not resist|swear by|wild about|suits me|tick my|is the (?:king|queen)|on repeat|regular at"
)
